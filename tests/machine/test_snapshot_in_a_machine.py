# SPDX-License-Identifier: Apache-2.0
"""A snapshot of a machine that runs the ramdisk, taken through its agent."""

import pathlib
import secrets
import subprocess

import pytest

import conductor_client
from conductor_client.flow import CaptureOptions
from snapshot_core.credentials import Credentials, Trust
from tests.lab import disks
from tests.machine import tempting_disk
from tests.machine.conftest import Storage
from tests.machine.machine import Drive, Machine
from tests.machine.ramdisk import Ramdisk
from tests.machine.tempting_disk import TemptingDisk

REPLAYED = "dirty, replayed on an overlay"
# Emulated: what takes seconds on a machine takes minutes here.
pytestmark = pytest.mark.timeout(1800)
_PATIENCE_S = 900


def test_a_snapshot_through_the_agent_is_the_disk_and_leaves_it_alone(
    built: Ramdisk, storage: Storage, tmp_path: pathlib.Path
) -> None:
    disk = tempting_disk.make(tmp_path / "disk.raw")
    tempting_disk.wake(disk.path)
    before = tempting_disk.digest(disk.path)
    image = tmp_path / "image.qcow2"

    drive = Drive(disk.path, tempting_disk.SERIAL)
    with Machine(built, [drive], secrets.token_urlsafe(32)) as machine:
        snapshot = conductor_client.take_snapshot(
            agent_url=machine.url, agent_token=machine.token, storage_url=storage.url,
            image_ref=image.as_uri(), credentials=Credentials(storage.username, storage.password),
            trust=Trust(str(storage.cacert)), timeout_s=_PATIENCE_S,
            options=CaptureOptions(expected_serial=tempting_disk.SERIAL),
        )  # fmt: skip

    result = snapshot.captured.raw
    assert result["writer"] == "stream"
    root, group, *rest = result["partitions"]
    # by the tools and the kernel's modules of the ramdisk
    assert (root["fs"], root["journal"]) == ("ext4", REPLAYED)
    assert [(v["name"], v["fs"], v["journal"]) for v in group["volumes"]] == [
        ("vg/data", "xfs", REPLAYED)
    ]
    assert [part["fs"] for part in rest] == [*["linux_raid_member"] * 2, "swap"]
    assert len(result["warnings"]) == 2, result["warnings"]
    assert_restores(image, disk, tmp_path)
    assert [path.name for path in storage.directory.iterdir() if path.name != ".DAV"] == []
    assert tempting_disk.digest(disk.path) == before


def assert_restores(image: pathlib.Path, disk: TemptingDisk, scratch: pathlib.Path) -> None:
    """See that an image holds all that is used: files, and what is no file system."""
    restored = scratch / "restored.raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(restored)]
    subprocess.run(command, check=True)
    assert restored.stat().st_size == disk.size
    for part in tempting_disk.COPIED_WHOLE:
        assert content(disk.path, part) == content(restored, part)
    original = scratch / "original.raw"
    disks.run("cp", "--sparse=always", disk.path, original)
    for part in disk.file_systems:
        files = replayed_files(original, part)
        assert "late" in files
        assert replayed_files(restored, part) == files


def replayed_files(path: pathlib.Path, part: disks.Partition) -> dict[str, str]:
    """Describe what the next mount of a file system shows; this is that mount."""
    with (
        disks.LoopDevice(path, part.offset, part.size) as loop,
        disks.mounted(loop.path, part.fs),
    ):
        pass
    return disks.checksums(path, part)


def content(path: pathlib.Path, part: disks.Partition) -> bytes:
    with path.open("rb") as file:
        file.seek(part.offset)
        return file.read(part.size)
