# SPDX-License-Identifier: Apache-2.0
"""Every writer in the ramdisk, to a storage that it knows: what arrives there is the disk.

The image is taken where the server keeps it: this host's kernel need not have an NFS client.
"""

import pathlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from conductor_client.agent import Agent, Captured
from snapshot_core.credentials import Trust
from tests.functional.conftest import identical, same_files
from tests.lab import disk_maker, disks
from tests.lab.ganesha import Ganesha
from tests.lab.machines import wait_until
from tests.machine import guest, ramdisk, tempting_disk
from tests.machine.conftest import Storage
from tests.machine.machine import STORAGE, Drive, Machine

SERIAL = "SMALL-1"
NODE = {
    "uuid": "6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59",
    "instance_info": {},
    "driver_internal_info": {},
    "properties": {"root_device": {"serial": SERIAL}},
}
# Emulated: what takes seconds on a machine takes minutes here, and each boot some of them.
pytestmark = pytest.mark.timeout(1800)
_PATIENCE_S = 900
_OUTAGE_S = 30


@dataclass(frozen=True)
class Target:
    """A storage as the machine's agent is told of it, and the directory behind it."""

    directory: pathlib.Path
    params: dict[str, Any]


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> disks.Disk:
    """A disk whose image fits the machine's memory, as davfs2 needs it."""
    path = tmp_path_factory.mktemp("small") / "small.raw"
    return disk_maker.make_disk(path, 600 * disk_maker.MIB, data_mib=20, junk_mib=20)


@pytest.fixture(scope="module")
def small_machine(built: ramdisk.Ramdisk, small_disk: disks.Disk) -> Iterator[Machine]:
    """A machine with this disk, whose agent has been told that it is the root device."""
    before = tempting_disk.digest(small_disk.path)
    with Machine(built, [Drive(small_disk.path, SERIAL)], secrets.token_urlsafe(32)) as running:
        tell_of_the_node(running)
        yield running
        mounts = guest.collect(running)["mount"]
    assert [line for line in mounts.splitlines() if "ipa-snapshot" in line] == []
    assert tempting_disk.digest(small_disk.path) == before, "a snapshot wrote to the disk"


@pytest.fixture
def webdav(storage: Storage) -> Target:
    """Apache, with TLS and an account."""
    params = {
        "url": storage.url,
        "auth": {"username": storage.username, "password": storage.password},
        "cacert": storage.cacert.read_text(),
    }
    return Target(storage.directory, params)


@pytest.fixture
def ganesha(tmp_path: pathlib.Path) -> Iterator[Ganesha]:
    """nfs-ganesha, which speaks NFS 4.2 and nothing older."""
    with Ganesha(tmp_path / "export") as server:
        yield server


@pytest.fixture
def nfs(ganesha: Ganesha) -> Target:
    """Its export."""
    url = f"nfs://{STORAGE}:{ganesha.port}{ganesha.EXPORT}"
    return Target(ganesha.directory, {"url": url})


@pytest.mark.parametrize(
    ("writer", "storage_name"),
    [("stream", "nfs"), ("nfs", "nfs"), ("davfs", "webdav"), ("dd", "webdav"), ("dd", "nfs")],
)
def test_what_a_writer_stores_is_the_disk_and_nothing_is_beside_it(
    small_machine: Machine, small_disk: disks.Disk, writer: str, storage_name: str,
    request: pytest.FixtureRequest, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    target: Target = request.getfixturevalue(storage_name)

    captured = capture(small_machine, {**target.params, "image_name": "image", "writer": writer})

    image = target.directory / "image"
    assert captured.raw["writer"] == writer
    assert captured.raw["device"]["serial"] == SERIAL
    assert captured.size == image.stat().st_size
    assert names(target) == ["image", "image.json"]
    if writer == "stream":  # whose free blocks are zeros
        assert same_files(small_disk, image, tmp_path)
    else:
        assert identical(small_disk.path, image, captured.disk_format)


def test_a_server_of_nfs_that_is_away_in_the_midst_is_waited_for(
    small_machine: Machine, small_disk: disks.Disk, nfs: Target, ganesha: Ganesha,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    with Agent(small_machine.url, small_machine.token, Trust()) as agent:
        command = agent.start({**nfs.params, "image_name": "image"})
        wait_until("begun", (nfs.directory / "image.part").exists)
        ganesha.kill()
        time.sleep(_OUTAGE_S)
        assert agent.status(command, patience_s=60).captured is None
        ganesha.start_again()
        captured = finish(agent, command)
    assert captured.size == (nfs.directory / "image").stat().st_size
    assert names(nfs) == ["image", "image.json"]
    assert same_files(small_disk, nfs.directory / "image", tmp_path)


def tell_of_the_node(machine: Machine) -> None:
    """Give the agent its node, as a conductor does: without hints a disk this small is none."""
    requests.post(
        machine.url + "/v1/commands/",
        params={"wait": "true", "agent_token": machine.token},
        json={"name": "service.get_service_steps", "params": {"node": NODE, "ports": []}},
        timeout=300,
    ).raise_for_status()


def capture(machine: Machine, params: dict[str, Any]) -> Captured:
    """Run the agent's command to its good end."""
    with Agent(machine.url, machine.token, Trust()) as agent:
        agent.check()
        return finish(agent, agent.start(params))


def finish(agent: Agent, command: str) -> Captured:
    """Return what the agent's command has made, as soon as it has come to its good end."""
    deadline = time.monotonic() + _PATIENCE_S
    while (captured := agent.status(command, patience_s=60).captured) is None:
        assert time.monotonic() < deadline, "the snapshot is not done"
        time.sleep(1)
    return captured


def names(target: Target) -> list[str]:
    """Return what the server's directory holds, save Apache's own files."""
    return sorted(path.name for path in target.directory.iterdir() if path.name != ".DAV")
