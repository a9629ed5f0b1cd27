# SPDX-License-Identifier: Apache-2.0
"""The service step through the real agent, to storages that the ramdisk's account cannot read."""

import contextlib
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.functional.conftest import SERIAL, names_in_the_end, same_files
from tests.lab import disks
from tests.lab.agent import Agent, FakeDisk
from tests.lab.apache import Apache
from tests.lab.nginx import Nginx

NODE = "6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59"
SECRETS = {"machine": "write-0nly s3cret", "conductor": "re4der s3cret"}
SERVERS = {"apache": Apache, "nginx": Nginx}


@dataclass(frozen=True)
class Store:
    """A storage with the accounts ``machine`` and ``conductor``, and the directory behind it."""

    url: str
    directory: pathlib.Path
    cacert: str

    def request(
        self, method: str, path: str, account: str = "machine", **options: Any
    ) -> requests.Response:
        """Ask the server as one of the two accounts."""
        return requests.request(
            method, self.url + path, auth=(account, SECRETS[account]), verify=self.cacert,
            allow_redirects=False, timeout=60, **options,
        )  # fmt: skip

    def names(self) -> list[str]:
        """Return what lies in the node's collection."""
        collection = self.directory / NODE
        return sorted(path.name for path in collection.iterdir() if path.name != ".DAV")


@pytest.fixture(params=SERVERS)
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    """Each of the servers, as the documentation configures them."""
    server: type[Apache | Nginx] = SERVERS[request.param]
    with server(
        tmp_path / "store", "conductor", SECRETS["conductor"], machine_password=SECRETS["machine"]
    ) as running:
        yield Store(running.url, tmp_path / "store", str(running.cacert))


@pytest.fixture
def only_apache(tmp_path: pathlib.Path) -> Iterator[Store]:
    """Apache alone, for what is not about the server."""
    with Apache(
        tmp_path / "store", "conductor", SECRETS["conductor"], machine_password=SECRETS["machine"]
    ) as running:
        yield Store(running.url, tmp_path / "store", str(running.cacert))


class Steps:
    """What a conductor asks an agent for, during a service."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def list(self) -> dict[str, Any]:
        """Return the steps of all the hardware managers."""
        answer = self._post("get_service_steps", {"node": node(), "ports": []}, wait=True)
        steps: dict[str, Any] = answer["command_result"]["service_steps"]
        return steps

    def start(self, **arguments: Any) -> str:
        """Start the step and return the command's id."""
        step = {"step": "snapshot", "interface": "deploy", "priority": 0, "args": arguments}
        params = {"step": step, "node": node(), "ports": [], "service_version": None}
        command: str = self._post("execute_service_step", params, wait=False)["id"]
        return command

    def finish(self, command: str) -> dict[str, Any]:
        """Wait for the command's end and return the agent's answer."""
        while True:
            answer = requests.get(
                "%s/v1/commands/%s" % (self._agent.url, command),
                params={"agent_token": self._agent.token}, timeout=60,
            )  # fmt: skip
            answer.raise_for_status()
            status: dict[str, Any] = answer.json()
            if status["command_status"] != "RUNNING":
                return status
            time.sleep(0.1)

    def run(self, **arguments: Any) -> dict[str, Any]:
        """Run the step to its good end and return its result."""
        status = self.finish(self.start(**arguments))
        assert status["command_status"] == "SUCCEEDED", status
        result: dict[str, Any] = status["command_result"]["service_result"]
        return result

    def failure(self, **arguments: Any) -> str:
        """Run the step to its bad end and return what Ironic shows of the error."""
        status = self.finish(self.start(**arguments))
        assert status["command_status"] == "FAILED", status
        details: str = status["command_error"]["details"]
        assert details.startswith(status["command_error"]["type"] + ": ")
        return details

    def _post(self, name: str, params: dict[str, Any], *, wait: bool) -> dict[str, Any]:
        answer = requests.post(
            "%s/v1/commands/" % self._agent.url, timeout=60,
            params={"agent_token": self._agent.token, "wait": str(wait).lower()},
            json={"name": "service.%s" % name, "params": params},
        )  # fmt: skip
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body


def node() -> dict[str, Any]:
    return {
        "uuid": NODE, "instance_info": {}, "driver_internal_info": {},
        "properties": {"root_device": {"serial": SERIAL}},
    }  # fmt: skip


@contextlib.contextmanager
def ramdisk(
    disk: disks.Disk, directory: pathlib.Path, store: Store | None, allowed: str = ""
) -> Iterator[Steps]:
    """Run an agent with the disk, configured for the storage; then see that its log has no secret.

    Whether something is left in its temporary directory is looked at too.
    """
    section = ""
    if store is not None:
        account = directory / "account.yaml"
        account.touch(mode=0o600)
        account.write_text("username: machine\npassword: '%s'\n" % SECRETS["machine"])
        section = (
            "[ipa_snapshot]\nstorage_url = %s\ncacert = %s\nauth_file = %s\nallowed_storage = %s\n"
            % (store.url, store.cacert, account, allowed)
        )
    with disks.LoopDevice(disk.path, read_only=True) as loop:
        fake = FakeDisk(loop.path, disk.size, serial=SERIAL)
        with Agent([fake], extra_config=section) as agent:
            yield Steps(agent)
            log = agent.log.read_text(errors="replace")
            assert list(agent.tempdir.iterdir()) == []
    assert "Executing service step" in log or "get_service_steps" in log
    assert not [secret for secret in SECRETS.values() if secret in log]


def test_the_image_arrives_below_the_node_s_uuid_by_a_step_without_arguments(
    store: Store, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with ramdisk(small_disk, tmp_path, store) as steps:
        result = steps.run()
    assert result["node"] == NODE
    name = result["image_name"]
    assert re.fullmatch("[0-9a-f]{32}[.]qcow2", name)
    assert store.names() == [name, name + ".json"]
    assert json.loads((store.directory / NODE / (name + ".json")).read_text()) == result
    assert result["device"]["serial"] == SERIAL
    assert same_files(small_disk, store.directory / NODE / name, tmp_path)


def test_the_agent_lists_the_step_with_its_arguments(
    only_apache: Store, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with ramdisk(small_disk, tmp_path, only_apache) as steps:
        (listed,) = steps.list()["SnapshotHardwareManager"]
    assert listed.pop("argsinfo").keys() == {
        "image_name", "writer", "image_format", "compression", "bad_sectors", "expected_serial",
        "expected_wwn", "encrypt_for", "image_ref", "keep_s", "url",
    }  # fmt: skip
    assert listed == {
        "step": "snapshot", "interface": "deploy", "priority": 0, "reboot_requested": False,
        "abortable": True,
    }  # fmt: skip


def test_a_ramdisk_without_configuration_lists_the_step_which_says_what_to_set(
    small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with ramdisk(small_disk, tmp_path, None) as steps:
        assert "SnapshotHardwareManager" in steps.list()
        error = steps.failure()
    assert error.startswith("InvalidRequest: this ramdisk is not told where to store images")
    assert "storage_url in [ipa_snapshot]" in error


def test_whoever_may_read_the_storage_sees_the_progress_until_the_manifest_replaces_it(
    store: Store, small_disk: disks.Disk, tmp_path: pathlib.Path, slow_network: None
) -> None:
    seen: list[dict[str, Any]] = []

    def look() -> dict[str, Any]:
        answer = store.request("GET", "/%s/image.json" % NODE, "conductor")
        with contextlib.suppress(ValueError):  # nothing yet, or the beginning of it
            found: dict[str, Any] = answer.json()
            seen.append(found)
            return found
        return {}

    with ramdisk(small_disk, tmp_path, store) as steps:
        # Else it is done before its progress is written a second time.
        command = steps.start(image_name="image", compression="none")
        wait_until(lambda: look().get("progress", {}).get("bytes_sent", 0) > 0)
        result = steps.finish(command)["command_result"]["service_result"]
    assert seen[0]["progress"]["phase"] in ("prepare", "map", "stream")
    assert {tuple(one) for one in seen} == {("progress",)}
    assert look() == result
    assert store.names() == ["image", "image.json"]


def test_a_step_that_is_to_stop_removes_all_that_it_stored(
    only_apache: Store, small_disk: disks.Disk, tmp_path: pathlib.Path, slow_network: None
) -> None:
    with ramdisk(small_disk, tmp_path, only_apache) as steps:
        command = steps.start(image_name="image", writer="dd")
        wait_until((only_apache.directory / NODE / "image.json").exists)
        # Empty, which Apache does not tell to an account that may not read.
        only_apache.request("PUT", "/%s/image.stop" % NODE, "conductor").raise_for_status()
        status = steps.finish(command)
    assert status["command_error"]["type"] == "Cancelled"
    assert names_in_the_end(only_apache.names, ["image.stop"]) == ["image.stop"]


@pytest.mark.parametrize("taken", ["image", "image.part", "image.json"])
def test_what_exists_is_neither_overwritten_nor_removed(
    store: Store, small_disk: disks.Disk, tmp_path: pathlib.Path, taken: str
) -> None:
    for method, path, data in (("MKCOL", NODE + "/", b""), ("PUT", "%s/%s" % (NODE, taken), b"!")):
        store.request(method, "/" + path, data=data).raise_for_status()
    with ramdisk(small_disk, tmp_path, store) as steps:
        error = steps.failure(image_name="image")
    assert error.startswith("InvalidRequest: ")
    assert "exists" in error
    assert store.names() == [taken]
    assert (store.directory / NODE / taken).read_bytes() == b"!"


def test_no_argument_sends_the_disk_elsewhere(
    only_apache: Store, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with (
        Apache(tmp_path / "evil", None) as evil,
        ramdisk(small_disk, tmp_path, only_apache) as steps,
    ):
        asked_by_the_lab = evil.access_log.read_text()
        for url in (
            evil.url,
            only_apache.url + "-evil",
            only_apache.url + "/../snapshots-evil",
            only_apache.url + "/%2e%2e/evil",
            "file://%s" % elsewhere,
            "/dev/sda",
        ):
            assert steps.failure(url=url).startswith("InvalidRequest: "), url
        for unknown in ("auth", "cacert", "insecure", "device", "any_root"):
            error = steps.failure(**{unknown: "value"})
            assert error == "InvalidRequest: unknown arguments: %s" % unknown
        assert steps.failure(image_name="../x").startswith("InvalidRequest: the image name")
        assert steps.failure(expected_serial="other").startswith("DeviceNotFound: ")
        assert evil.access_log.read_text() == asked_by_the_lab
    assert list(elsewhere.iterdir()) == []
    assert list(only_apache.directory.iterdir()) == []


def test_a_url_that_is_allowed_is_taken(
    only_apache: Store, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with (
        Apache(tmp_path / "second", None, tls=False) as second,
        ramdisk(small_disk, tmp_path, only_apache, allowed=second.url) as steps,
    ):
        steps.run(image_name="here", url=only_apache.url + "/")
        steps.run(image_name="there.raw", url=second.url, writer="dd", image_format="raw")
    assert only_apache.names() == ["here", "here.json"]
    there = tmp_path / "second" / NODE
    assert (there / "there.raw").stat().st_size == small_disk.size


def refused(store: Store) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield what the ramdisk's account must not do: method, path, headers."""
    image, collection = "/%s/image" % NODE, "/%s/" % NODE
    for path in ("/", collection, collection[:-1], image, "/%s//image" % NODE, image + "?x"):
        yield "GET", path, {}
        yield "POST", path, {}
    for path in ("/", collection):
        yield "HEAD", path, {}
        yield "DELETE", path, {}
        for depth in ("1", "infinity", "0, 1"):
            yield "PROPFIND", path, {"Depth": depth}
        yield "PROPFIND", path, {}
    yield "GET", image, {"Range": "bytes=0-3"}
    for destination in ("/public", "/%s" % NODE.replace("6", "7"), "/%s/../public" % NODE):
        yield "MOVE", image, {"Destination": store.url + destination}
    yield "MOVE", collection, {"Destination": "%s/%s/" % (store.url, NODE.replace("6", "7"))}
    yield "COPY", image, {"Destination": "%s/%s/other" % (store.url, NODE)}
    yield "PUT", "/public", {}
    yield "PUT", "/%s/deeper/image" % NODE, {}
    yield "MKCOL", "/public/", {}


def test_the_account_of_the_ramdisk_can_neither_read_nor_list(store: Store) -> None:
    image = "/%s/image" % NODE
    assert store.request("MKCOL", "/%s/" % NODE).status_code == 201
    assert store.request("PUT", image, data=b"bytes of a disk").status_code == 201
    for method, path, headers in refused(store):
        answer = store.request(method, path, headers=headers)
        assert 400 <= answer.status_code < 500, (method, path, headers)
        assert "bytes of a disk" not in answer.text
        assert "image<" not in answer.text
    assert store.request("HEAD", image).headers["Content-Length"] == "15"
    assert store.request("GET", image, "conductor").content == b"bytes of a disk"
    assert store.names() == ["image"]
    assert {path.name for path in store.directory.iterdir()} - {".DAV", ".incoming"} == {NODE}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
