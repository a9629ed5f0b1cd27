# SPDX-License-Identifier: Apache-2.0
"""Whole disks through ``ipa-snapshot stream`` and back: what is restored is what was there.

With the disk as a loop device, with sectors of 512 and of 4096 bytes; empty, fragmented and full.
"""

import errno
import json
import os
import pathlib
import random
import subprocess

import pytest

from tests.functional import commands
from tests.functional.test_used_map import check, fill, has_junk
from tests.lab import disks

MIB = 1024 * 1024
START, SIZE = MIB, 400 * MIB
# Not a whole number of clusters, of 4096-byte sectors neither: room for the backup GPT, and a bit.
DISK = START + SIZE + 3 * MIB + 5 * 4096
CHECKED = {"ext4": "ext", "xfs": "xfs", "btrfs": "btrfs"}


def make_disk(path: pathlib.Path, fs: str, sector_size: int) -> None:
    path.touch()
    os.truncate(path, DISK)
    with disks.LoopDevice(path, sector_size=sector_size) as loop:
        rows = "label: gpt\nstart=%d, size=%d\n" % (START // sector_size, SIZE // sector_size)
        disks.run("sfdisk", "-q", loop.path, stdin=rows)
    with disks.LoopDevice(path, START, SIZE, sector_size=sector_size) as loop:
        force = [] if fs == "ext4" else ["-f"]
        disks.run("mkfs.%s" % fs, "-q", *force, loop.path)


def describe(path: pathlib.Path, fs: str, sector_size: int) -> dict[str, str]:
    """Check the file system of the disk, and tell what each of its files is."""
    with disks.LoopDevice(path, START, SIZE, sector_size=sector_size) as loop:
        check(CHECKED[fs], loop.path)
        return disks.checksums(loop.path, disks.Partition("all", fs, 0, SIZE))


def capture(path: pathlib.Path, sector_size: int, images: pathlib.Path) -> dict[str, object]:
    images.mkdir()
    with disks.LoopDevice(path, sector_size=sector_size, read_only=True) as loop:
        outcome = commands.run("ipa-snapshot", "stream", "file://%s" % images, "image",
                               "--device", loop.path, "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    return outcome.json


def restore(images: pathlib.Path, target: pathlib.Path) -> None:
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", images / "image", target]
    subprocess.run(command, check=True)
    assert target.stat().st_size == DISK


def table(path: pathlib.Path, sector_size: int) -> object:
    with disks.LoopDevice(path, sector_size=sector_size, read_only=True) as loop:
        found = json.loads(disks.run("sfdisk", "--json", loop.path))["partitiontable"]
        disks.run("sgdisk", "--verify", loop.path)
    return found["id"], [(row["start"], row["size"], row["uuid"]) for row in found["partitions"]]


def _decorate(top: pathlib.Path) -> None:
    """Add what a copy of files alone may lose."""
    one = top / "d0/decorated"
    one.write_bytes(b"content")
    os.link(one, top / "d0/another name")
    os.setxattr(one, "user.note", b"value")
    os.setxattr(
        one, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    disks.run("setfacl", "-m", "u:1000:r--", one)
    os.chown(one, 1234, 4321)


def _fragment(top: pathlib.Path) -> None:
    """Leave as many holes as files."""
    files = top / "small"
    files.mkdir()
    for number in range(6000):
        (files / str(number)).write_bytes(random.Random(number).randbytes(4096))
    os.sync()
    for number in range(0, 6000, 2):
        (files / str(number)).unlink()


def _fill_up(top: pathlib.Path) -> None:
    noise = random.Random(8)
    with (top / "large").open("wb") as file:
        try:
            while True:
                file.write(noise.randbytes(MIB))
        except OSError as exc:
            assert exc.errno == errno.ENOSPC


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("fs", CHECKED)
def test_a_disk_comes_back_as_it_was(tmp_path: pathlib.Path, fs: str, sector_size: int) -> None:
    disk, restored = tmp_path / "disk.raw", tmp_path / "restored.raw"
    make_disk(disk, fs, sector_size)
    with (
        disks.LoopDevice(disk, START, SIZE, sector_size=sector_size) as loop,
        disks.mounted(loop.path, fs) as top,
    ):
        fill(top)
        _decorate(top)
    assert has_junk(disk)
    result = capture(disk, sector_size, tmp_path / "images")
    assert result["warnings"] == []
    restore(tmp_path / "images", restored)
    assert table(restored, sector_size) == table(disk, sector_size)
    before = describe(disk, fs, sector_size)
    assert "user.note" in before["d0/decorated"]
    assert "system.posix_acl_access" in before["d0/decorated"]
    assert describe(restored, fs, sector_size) == before
    assert not has_junk(restored)


@pytest.mark.parametrize("prepare", [_fragment, _fill_up], ids=["fragmented", "full"])
@pytest.mark.parametrize("fs", CHECKED)
def test_so_does_one_that_is_fragmented_or_full(tmp_path: pathlib.Path, fs: str, prepare) -> None:  # type: ignore[no-untyped-def]
    disk, restored = tmp_path / "disk.raw", tmp_path / "restored.raw"
    make_disk(disk, fs, 512)
    with disks.LoopDevice(disk, START, SIZE) as loop, disks.mounted(loop.path, fs) as top:
        fill(top, junk_mib=5)
        prepare(top)
    result = capture(disk, 512, tmp_path / "images")
    assert result["warnings"] == []
    restore(tmp_path / "images", restored)
    assert table(restored, 512) == table(disk, 512)
    assert describe(restored, fs, 512) == describe(disk, fs, 512)
