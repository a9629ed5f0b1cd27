# SPDX-License-Identifier: Apache-2.0
"""The command through the agent's real API: what it refuses, reports, and answers in the end."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ironic_python_agent import errors as agent_errors

from ipa_snapshot import capture
from tests.lab import certificates
from tests.unit.ipa_snapshot.devices.agent_hardware import agent_with
from tests.unit.ipa_snapshot.devices.root_device_cases import SDA, SDB, disk
from tests.unit.ipa_snapshot.extension.agent import AgentWithoutMachine

pytestmark = pytest.mark.filterwarnings("ignore::pyparsing.PyparsingDeprecationWarning")

MIB = 1024 * 1024
GOOD = {"url": "http://127.0.0.1:1/dir", "image_name": "image"}


def _post(agent: AgentWithoutMachine, params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    answer = agent.client().post(
        "/v1/commands/?agent_token=t0ken&wait=true",
        json={"name": "snapshot.stream_image", "params": params},
    )
    return answer.status_code, answer.get_json()


BAD = [
    ({"url": "ftp://host/dir"}, "unknown scheme"),
    ({"url": "http://user:s3cret@host/"}, "must not hold credentials"),
    ({"url": None}, "storage URL"),
    ({"image_name": "a/b"}, "plain file name"),
    ({"writer": "partclone"}, "unknown writer"),
    ({"image_format": "vmdk"}, "unknown image_format"),
    ({"colour": "red"}, "unknown options: colour"),
    # names of parameters of our own
    ({"cls": 1}, "unknown options: cls"),
    ({"_extension": 1}, "unknown options: _extension"),
    ({"auth": {"username": "anna"}}, "credentials must hold"),
    ({"cacert": "/etc/ssl/ca.pem"}, "cacert must be the text of a PEM file"),
    ({"cacert": 7}, "cacert must be the text"),
    ({"insecure": "yes"}, "insecure must be true or false"),
    ({"insecure": True, "cacert": "-----BEGIN CERTIFICATE-----"}, "excludes cacert"),
    ({"any_root": "yes"}, "any_root must be true or false"),
    ({"bad_sectors": "skip"}, "unknown bad_sectors 'skip': expected one of fail, zero"),
    ({"writer": "davfs", "insecure": True}, "the writer davfs always verifies"),
    ({"writer": "davfs", "bad_sectors": "zero"}, "cannot go on past bad sectors"),
    ({"writer": "nfs", "url": "host:/dir", "bad_sectors": "zero"}, "cannot go on past bad sectors"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_request_is_answered_400_with_the_word_and_the_reason(
    bad: dict[str, Any], reason: str
) -> None:
    agent = AgentWithoutMachine()
    status, answer = _post(agent, {**GOOD, **bad})
    assert status == 400
    assert answer["faultstring"].startswith("InvalidRequest: ")
    assert reason in answer["faultstring"]
    assert "s3cret" not in answer["faultstring"]
    assert agent.command_results == {}


@pytest.mark.parametrize("params", [{}, {"image_name": "image"}, {"url": "http://host/dir"}])
def test_missing_arguments_are_a_bad_request_too(params: dict[str, Any]) -> None:
    status, answer = _post(AgentWithoutMachine(), params)
    assert (status, answer["faultstring"][:16]) == (400, "InvalidRequest: ")


def test_the_validator_s_error_is_of_the_agent_s_own_type() -> None:
    with pytest.raises(agent_errors.InvalidContentError) as caught:
        AgentWithoutMachine().execute_command("snapshot.stream_image")
    assert caught.value.status_code == 400


def _failed(disks: list[Any], **params: Any) -> dict[str, Any]:
    agent = AgentWithoutMachine()
    with agent_with(disks, None):
        status, answer = _post(agent, {**GOOD, **params})
    assert (status, answer["command_status"]) == (200, "FAILED")
    assert agent.heartbeats == 1
    error: dict[str, Any] = answer["command_error"]
    return error


@pytest.mark.parametrize(
    ("disks", "params", "word", "details"),
    [
        ([], {}, "DeviceNotFound", "No suitable device"),
        ([SDA, SDB], {}, "DeviceNotFound", "2 disks may be the root device"),
        ([SDA], {"expected_serial": "x"}, "DeviceNotFound", "expected x"),
        ([disk("/dev/no-such-disk", 8 << 30)], {}, "DeviceNotFound", "cannot be opened"),
    ],
)
def test_our_error_s_word_and_message_are_what_the_caller_gets(
    disks: list[Any], params: dict[str, Any], word: str, details: str
) -> None:
    error = _failed(disks, **params)
    assert error["type"] == word
    assert details in error["details"]
    assert error["code"] == 500


@pytest.fixture
def image_file(make_disk: Callable[..., Path]) -> Path:
    path = make_disk(MIB, 7 * MIB)
    os.truncate(path, 5 << 30)
    return path


def test_a_storage_that_is_away_is_told(image_file: Path) -> None:
    error = _failed([disk(str(image_file), 5 << 30)], writer="dd")
    assert error["type"] == "StorageUnavailable"
    assert "http://127.0.0.1:1/dir" in error["details"]


def test_a_full_temporary_directory_is_told(
    mount_tmpfs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = mount_tmpfs("size=64k")
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    error = _failed([SDA], cacert="-----BEGIN CERTIFICATE-----" + "x" * 100_000)
    assert error["type"] == "NotEnoughMemory"
    assert "no room for the storage's certificates in %s: No space" % directory in error["details"]
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("with_authority", [False, True])
def test_the_result_of_a_snapshot_is_the_command_s(
    tmp_path: Path, image_file: Path, with_authority: bool
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    os.truncate(image_file, 8 * MIB)
    params = {"url": "file://%s" % storage, "image_name": "image", "any_root": True}
    if with_authority:
        params["cacert"] = certificates.issue(tmp_path).cacert.read_text()
    known = disk(str(image_file), 8 * MIB, serial=["A", None], wwn=["B"])
    hints = {"properties": {"root_device": {"serial": "a"}}}
    agent = AgentWithoutMachine()
    with agent_with([known], hints):
        status, answer = _post(agent, params)
    assert (status, answer["command_status"]) == (200, "SUCCEEDED"), answer
    result = answer["command_result"]
    assert set(result) == {
        "image_name", "disk_format", "virtual_size", "size", "checksum", "device", "used",
        "bytes_read", "bytes_sent", "writer", "compression", "partitions", "warnings",
        "elapsed_s", "lost",
    }  # fmt: skip
    assert result["device"]["serial"] == "A"
    assert result["virtual_size"] == 8 * MIB
    stored = (storage / "image").read_bytes()
    assert result["checksum"]["value"] == hashlib.sha512(stored).hexdigest()


def test_while_it_runs_a_poller_sees_the_progress(tmp_path: Path, image_file: Path) -> None:
    os.truncate(image_file, 8 * MIB)
    agent, seen = AgentWithoutMachine(), []
    extension_report = agent.extension._report

    def report_and_poll(command: Any, progress: Any) -> None:
        while not agent.command_results:
            time.sleep(0.001)  # the agent notes a command only after it has started it
        extension_report(command, progress)
        (running,) = agent.command_results.values()
        answer = agent.client().get("/v1/commands/%s?agent_token=t0ken" % running.id)
        seen.append(answer.get_json())

    agent.extension._report = report_and_poll
    hints = {"properties": {"root_device": {"name": str(image_file)}}}
    with agent_with([disk(str(image_file), 8 * MIB)], hints):
        _post(agent, {"url": "file://%s" % tmp_path, "image_name": "image"})
    assert {one["command_status"] for one in seen} == {"RUNNING"}
    phases = [one["command_result"]["progress"]["phase"] for one in seen]
    assert list(dict.fromkeys(phases)) == ["prepare", "map", "stream", "publish"]
    assert set(seen[0]["command_result"]["progress"]) == {
        "phase", "bytes_total", "bytes_done", "bytes_sent", "eta_s",
    }  # fmt: skip


def test_an_agent_that_is_to_stop_says_that_it_did(
    tmp_path: Path, image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_STOP_INTERVAL_S", 0)
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "image.stop").touch()
    error = _failed(
        [disk(str(image_file), 5 << 30)], url="file://%s" % storage, any_root=True, writer="dd"
    )
    assert error["type"] == "Cancelled"
    assert [path.name for path in storage.iterdir()] == ["image.stop"]
