# SPDX-License-Identifier: Apache-2.0
"""The command ``ironic-snapshot``: its exit codes, its one line of error, and its JSON."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conductor_client import cli, flow
from tests.unit.conductor_client.fake_agent import TOKEN, FakeAgent, failed
from tests.unit.conductor_client.test_flow import DATA, Machine, Serve

pytestmark = pytest.mark.usefixtures("logging_restored", "quick")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_POLL_S", 0.01)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def take(serve: Serve, storage: Path, token_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return the arguments of a snapshot that works, up to what the test adds."""

    def take(agent: FakeAgent, *more: str) -> list[str]:
        return [
            "take", "--agent-url", serve(agent).url, "--agent-token-file", str(token_file),
            "--storage-url", "file://%s" % storage,
            "--image-ref", "file://%s/new.qcow2" % tmp_path, *more,
        ]  # fmt: skip

    return take


Arguments = Callable[..., list[str]]


def _json(argv: list[str], capsys: Capture) -> tuple[int, dict[str, Any]]:
    code = cli.main([*argv, "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_a_snapshot_is_told_to_people(
    take: Arguments, storage: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(take(Machine(storage))) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "file://%s/new.qcow2: qcow2, %d B, virtual size 1.00 KiB, " % (tmp_path, len(DATA))
    )
    assert out.splitlines()[1] == "sha512 " + hashlib.sha512(DATA).hexdigest()
    assert "stream: 5 B of 10 B (50 %)" in err
    assert (tmp_path / "new.qcow2").read_bytes() == DATA


def test_with_json_it_is_one_object(take: Arguments, storage: Path, capsys: Capture) -> None:
    code, result = _json(take(Machine(storage)), capsys)
    assert code == 0
    assert set(result) == {
        "image_ref", "disk_format", "size", "virtual_size", "checksum", "captured", "warnings",
        "elapsed_s",
    }  # fmt: skip


def test_the_options_reach_the_agent(take: Arguments, storage: Path, tmp_path: Path) -> None:
    auth = tmp_path / "auth"
    auth.touch(mode=0o600)
    auth.write_text("token: s3cret")
    machine = Machine(storage)
    assert cli.main(take(
        machine, "--writer", "dd", "--compression", "zlib", "--expected-serial", "SN",
        "--expected-wwn", "0x5", "--any-root", "--insecure", "--auth-file", str(auth),
    )) == 0  # fmt: skip
    (params,) = machine.started
    del params["image_name"], params["url"]
    assert params == {
        "writer": "dd", "image_format": "qcow2", "compression": "zlib", "any_root": True,
        "bad_sectors": "fail",
        "expected_serial": "SN", "expected_wwn": "0x5", "insecure": True,
        "auth": {"token": "s3cret"},
    }  # fmt: skip


def test_a_failure_is_one_line_and_with_json_an_object(take: Arguments, capsys: Capture) -> None:
    agent = FakeAgent(failed({"type": "DeviceInUse", "details": "\x1b[2Jmounted\non /mnt"}))
    argv = take(agent)
    assert cli.main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "ironic-snapshot: CommandFailed: the agent reports DeviceInUse: ?[2Jmounted on /mnt\n"
    )
    code, result = _json(argv, capsys)
    assert (code, result["error"]["type"]) == (1, "CommandFailed")


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (TOKEN, 0o644, "chmod 600"),
        ("", 0o600, "must hold the token"),
        ("\n", 0o600, "must hold the token"),
        ("t0ken\nmore", 0o600, "must hold the token, in one line"),
        ("t0\x00ken", 0o600, "must hold the token, in one line"),
    ],
)
def test_a_bad_token_file_is_refused_and_not_quoted(
    take: Arguments, storage: Path, token_file: Path, content: str, mode: int, reason: str,
    capsys: Capture,
) -> None:  # fmt: skip
    token_file.write_text(content)
    token_file.chmod(mode)
    machine = Machine(storage)
    assert cli.main(take(machine)) == 1
    err = capsys.readouterr().err
    assert err.startswith("ironic-snapshot: InvalidRequest: ")
    assert reason in err
    assert "t0" not in err.replace(str(token_file), "")
    assert machine.started == []


def test_not_even_debugging_shows_the_secrets(
    take: Arguments, storage: Path, tmp_path: Path, capsys: Capture
) -> None:
    auth = tmp_path / "auth"
    auth.touch(mode=0o600)
    auth.write_text("{username: anna, password: s3cret}")
    assert cli.main(take(Machine(storage), "--debug", "--auth-file", str(auth))) == 0
    out, err = capsys.readouterr()
    assert "DEBUG" in err or "INFO" in err
    assert "s3cret" not in out + err
    assert TOKEN not in out + err


@pytest.mark.parametrize(
    "change",
    [
        lambda argv: [],
        lambda argv: ["nonsense"],
        lambda argv: argv[:-2],
        lambda argv: [*argv, "--cacert", "ca.pem", "--insecure"],
        lambda argv: [*argv, "--agent-cacert", "ca.pem", "--agent-insecure"],
        lambda argv: [*argv, "--format", "vmdk"],
        lambda argv: [*argv, "--compression", "lzma"],
        lambda argv: [*argv, "--timeout", "soon"],
        lambda argv: [*argv, "extra"],
    ],
)
def test_a_wrong_usage_exits_with_2_and_shows_the_usage(
    take: Arguments, change: Callable[[list[str]], list[str]], capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(change(take(FakeAgent())))
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("usage: ironic-snapshot")


@pytest.mark.parametrize("option", ["--agent-token", "--auth"])
def test_a_secret_as_an_argument_is_wrong_usage_and_not_taken_for_a_file(
    take: Arguments, storage: Path, option: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(take(Machine(storage), option, "s3cret"))
    assert caught.value.code == 2
