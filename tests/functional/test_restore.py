# SPDX-License-Identifier: Apache-2.0
"""Whole disks through ``ipa-snapshot stream`` and back: what is restored is what was there.

With the disk as a loop device, with sectors of 512 and of 4096 bytes; empty, fragmented and full.
"""

import errno
import hashlib
import json
import os
import pathlib
import random
import stat
import subprocess
from typing import Any

import pytest

from tests.functional import commands
from tests.lab import disks, file_systems
from tests.lab.file_systems import MIB, check, fill, has_junk

START, SIZE = MIB, 400 * MIB
# Not a whole number of clusters, of 4096-byte sectors neither: room for the backup GPT, and a bit.
DISK = START + SIZE + 3 * MIB + 5 * 4096
CHECKED = {"ext4": "ext", "xfs": "xfs", "btrfs": "btrfs"}
MKFS = {
    "ext2": ["mkfs.ext2", "-q"],
    "ext3": ["mkfs.ext3", "-q"],
    "ext4": ["mkfs.ext4", "-q"],
    "exfat": ["mkfs.exfat"],
    "ntfs": ["mkfs.ntfs", "-F", "-Q", "-q"],
    "f2fs": ["mkfs.f2fs", "-f", "-t", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


def make_disk(path: pathlib.Path, fs: str, sector_size: int) -> None:
    path.touch()
    os.truncate(path, DISK)
    with disks.LoopDevice(path, sector_size=sector_size) as loop:
        rows = "label: gpt\nstart=%d, size=%d\n" % (START // sector_size, SIZE // sector_size)
        disks.run("sfdisk", "-q", loop.path, stdin=rows)
    with disks.LoopDevice(path, START, SIZE, sector_size=sector_size) as loop:
        disks.run(*MKFS[fs], loop.path)


def describe(path: pathlib.Path, fs: str, sector_size: int) -> dict[str, str]:
    """Check the file system of the disk, and tell what each of its files is."""
    with disks.LoopDevice(path, START, SIZE, sector_size=sector_size) as loop:
        check(CHECKED[fs], loop.path)
        return disks.checksums(loop.path, disks.Partition("all", fs, 0, SIZE))


def capture(path: pathlib.Path, sector_size: int, images: pathlib.Path) -> dict[str, Any]:
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
    os.mknod(top / "d0/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
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


@pytest.mark.parametrize("fs", ["ext2", "ext3", "exfat", "ntfs"])
def test_so_does_every_other_file_system(tmp_path: pathlib.Path, fs: str) -> None:
    disk, restored = tmp_path / "disk.raw", tmp_path / "restored.raw"
    make_disk(disk, fs, 512)
    with (
        disks.LoopDevice(disk, START, SIZE) as loop,
        file_systems.mounted(loop.path, fs) as top,
    ):
        fill(top)
    assert has_junk(disk)
    result = capture(disk, 512, tmp_path / "images")
    assert result["warnings"] == []
    restore(tmp_path / "images", restored)
    assert table(restored, 512) == table(disk, 512)
    assert not has_junk(restored)
    trees = []
    for path in (disk, restored):
        with disks.LoopDevice(path, START, SIZE) as loop:
            file_systems.check("ext" if fs.startswith("ext") else fs, loop.path)
            with file_systems.mounted(loop.path, fs) as top:
                trees.append(disks.describe_tree(top))
    assert len(trees[0]) > 60
    assert trees[0] == trees[1]


def test_so_does_an_f2fs(tmp_path: pathlib.Path) -> None:
    # Not every kernel has it: sload.f2fs fills it, and dump.f2fs gives files back by their names.
    disk, restored, tree = tmp_path / "disk.raw", tmp_path / "restored.raw", tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        content = random.Random(number).randbytes(random.Random(number).choice([90, 5000, 300_000]))
        (tree / f"file-{number}").write_bytes(content)
    make_disk(disk, "f2fs", 512)
    with disk.open("r+b") as file:
        file.seek(START + SIZE // 2)
        file.write(file_systems.JUNK * (100 * MIB // len(file_systems.JUNK)))
    with disks.LoopDevice(disk, START, SIZE) as loop:
        disks.run("sload.f2fs", "-f", tree, loop.path)
    result = capture(disk, 512, tmp_path / "images")
    assert result["warnings"] == []
    restore(tmp_path / "images", restored)
    assert has_junk(disk)
    assert not has_junk(restored)
    out = tmp_path / "out"
    out.mkdir()
    with disks.LoopDevice(restored, START, SIZE) as loop:
        file_systems.check("f2fs", loop.path)
        for number in range(4, 130):
            subprocess.run(
                ["dump.f2fs", "-i", f"{number:x}", loop.path], cwd=out, input=b"y\n", check=False,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
    for path in tree.iterdir():
        assert (out / "lost_found" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_what_a_crash_left_comes_back_with_all_that_was_promised(
    tmp_path: pathlib.Path, fs: str
) -> None:
    disk, restored = tmp_path / "disk.raw", tmp_path / "restored.raw"
    make_disk(disk, fs, 512)
    with disks.LoopDevice(disk, START, SIZE) as loop:
        with disks.mounted(loop.path, fs) as top:
            fill(top)
        with disks.mounted(loop.path, fs) as top:
            promised = file_systems.crash(top)
    result = capture(disk, 512, tmp_path / "images")
    assert result["warnings"] == []
    (row,) = result["partitions"]
    assert row["journal"] == "dirty, replayed on an overlay"
    restore(tmp_path / "images", restored)
    # as the kernel of a restored machine does it
    with disks.LoopDevice(restored, START, SIZE) as loop:
        with disks.mounted(loop.path, fs) as top:
            for name, digest in promised.items():
                assert hashlib.sha256((top / name).read_bytes()).hexdigest() == digest
        check(CHECKED[fs], loop.path)
