# SPDX-License-Identifier: Apache-2.0
"""What is left of a file system under a partition table does not hide what the table describes."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa_snapshot.devices.extents import Extents
from tests.functional.maps import map_of, only
from tests.lab import disks
from tests.lab.file_systems import MIB, make_file

PLACE = (MIB, 320 * MIB)
SIZE = 330 * MIB
DOS, GPT = "label: dos\nstart=8192\n", "label: gpt\nstart=8192\n"
MKFS = {
    "swap": ["mkswap"],
    "vfat": ["mkfs.vfat", "-F", "32"],
    "ntfs": ["mkfs.ntfs", "-F", "-Q", "-q"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "f2fs": ["mkfs.f2fs", "-q"],
}


def make_disk(path: Path, fs: str, *tables: str) -> Path:
    """Make a disk with a partition, a file system in it, and then tables in that."""
    make_file(path, SIZE)
    disks.run("sfdisk", "-q", path, stdin="label: gpt\nstart=2048, size=320MiB\n")
    with disks.LoopDevice(path, *PLACE) as loop:
        disks.run(*MKFS[fs], loop.path)
        for table in tables:
            disks.run("sfdisk", "-q", "--no-tell-kernel", loop.path, stdin=table)
    return path


def write(path: Path, *pieces: tuple[int, bytes]) -> Path:
    with path.open("r+b") as disk:
        for place, content in pieces:
            disk.seek(place)
            disk.write(content)
    return path


@pytest.mark.parametrize("table", [DOS, "label: dos\nstart=8192, type=5\n", GPT],
                         ids=["dos", "an extended partition alone", "gpt"])  # fmt: skip
@pytest.mark.parametrize("fs", MKFS)
def test_a_partition_with_a_table_in_it_is_copied_whole(
    fs: str, table: str, tmp_path: Path
) -> None:
    found = map_of(make_disk(tmp_path / "disk.raw", fs, table))
    assert not Extents([PLACE]).without(found.unmapped)
    assert only(found).used == PLACE[1]
    assert "partition 1 (" in found.warnings[0]
    if table != GPT or fs not in {"vfat", "ntfs"}:  # a GPT overwrites what is in the second sector
        assert "a partition table (" in found.warnings[0]


def test_a_btrfs_under_what_sgdisk_wrote_is_copied_whole(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", "btrfs")
    with disks.LoopDevice(disk, *PLACE) as loop:
        disks.run("sgdisk", "-n", "1:2048:+200M", "-n", "2:0:0", loop.path)
    found = map_of(disk)
    assert only(found).used == PLACE[1]
    assert found.warnings == (
        "partition 1 (btrfs) is copied whole: a partition table (gpt) lies on it",
    )


def test_a_gpt_for_sectors_of_4096_bytes_is_seen_too(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", "btrfs")
    with disks.LoopDevice(disk, *PLACE, sector_size=4096) as loop:
        disks.run("sfdisk", "-q", "--no-tell-kernel", loop.path, stdin="label: gpt\nsize=9MiB\n")
    write(disk, (MIB, bytes(512)))  # without what protects it, in which 512 would be seen as well
    assert "a partition table (gpt) lies on it" in map_of(disk).warnings[0]


def test_where_the_table_in_a_partition_cannot_be_read_it_is_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk(tmp_path / "disk.raw", "ext4")
    assert only(map_of(disk)).used < PLACE[1]
    # the disk's own table is read still
    (tmp_path / "sfdisk").write_text(
        '#!/bin/sh\ncase "$*" in *loop*) kill -9 $$;; esac\nPATH=${PATH#*:} exec sfdisk "$@"\n'
    )
    (tmp_path / "sfdisk").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = map_of(disk)
    assert only(found).used == PLACE[1]
    assert "whether a partition table lies on it is not known" in found.warnings[0]


def _without_entries(_numbers: random.Random) -> bytes:
    return b"\x90" * 446 + bytes(64) + b"\x55\xaa"


def _with_text(_numbers: random.Random) -> bytes:
    text = b"\r\nA disk read error occurred\0\r\nBOOTMGR is missing\0\r\nPress Ctrl+Alt+Del"
    return (b"\x90" * 400 + text * 2)[:510] + b"\x55\xaa"


def _with_code(numbers: random.Random) -> bytes:
    code = bytearray(numbers.randbytes(510))
    code[446] = 0x7F  # no boot indicator
    return bytes(code) + b"\x55\xaa"


@pytest.mark.parametrize("make", [_without_entries, _with_text, _with_code])
@pytest.mark.parametrize(("fs", "first"), [("vfat", 90), ("ntfs", 84), ("ext4", 0), ("btrfs", 0)])
def test_boot_code_is_no_table(
    fs: str, first: int, make: Callable[[random.Random], bytes], tmp_path: Path
) -> None:
    disk = make_disk(tmp_path / "disk.raw", fs)
    write(disk, (MIB + first, make(random.Random(fs))[first:]))
    found = map_of(disk)
    assert (only(found).fs, found.warnings) == (fs, ())
    assert only(found).used < 40 * MIB


def _apple_map(path: Path, start: int) -> Path:
    """Write an Apple partition map, of which sfdisk knows nothing."""
    partition = struct.pack(">HHIII32s32s", 0x504D, 0, 1, 64, 1024, b"", b"Apple_HFS")
    return write(path, (start, struct.pack(">HHI", 0x4552, 512, 100_000)), (start + 512, partition))


def test_an_ext4_under_an_apple_partition_map_is_copied_whole(tmp_path: Path) -> None:
    disk = _apple_map(make_disk(tmp_path / "disk.raw", "ext4"), PLACE[0])
    found = map_of(disk)
    assert only(found).used == PLACE[1]
    assert "a partition table (mac) lies on it" in found.warnings[0]


def test_an_ext4_under_an_apple_partition_map_of_a_whole_disk_is_copied_whole(
    tmp_path: Path,
) -> None:
    disk = make_file(tmp_path / "disk.raw", 64 * MIB)
    disks.run("mkfs.ext4", "-q", "-F", disk)
    assert map_of(disk).extents.total < 64 * MIB
    found = map_of(_apple_map(disk, 0))
    assert found.extents.total == 64 * MIB
    assert "both a partition table and ext4" in found.warnings[0]


def test_a_vfat_of_a_whole_disk_with_an_extended_partition_is_copied_whole(tmp_path: Path) -> None:
    disk = make_file(tmp_path / "disk.raw", 64 * MIB)
    disks.run("mkfs.vfat", disk)
    assert map_of(disk).extents.total < 64 * MIB
    disks.run("sfdisk", "-q", disk, stdin="label: dos\nstart=8192, type=5\n")
    assert map_of(disk).extents.total == 64 * MIB


# where libblkid looks, and what it knows
SUSPENDED = [
    *((page, page - 10, b"S1SUSPEND\0") for page in (4096, 8192, 16384, 32768, 65536)),
    *((4096, 4086, word) for word in (b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001")),
    (4096, 0, b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"),
]


@pytest.mark.parametrize(("page", "place", "word"), SUSPENDED)
def test_the_whole_disk_of_a_hibernated_system_is_copied(
    page: int, place: int, word: bytes, tmp_path: Path
) -> None:
    disk = make_file(tmp_path / "disk.raw", 100 * MIB)
    disks.run("sfdisk", "-q", disk, stdin="label: gpt\nsize=40MiB\nsize=30MiB\n")
    with disks.LoopDevice(disk, MIB, 40 * MIB) as loop:
        disks.run("mkfs.ext4", "-q", loop.path)
    with disks.LoopDevice(disk, 41 * MIB, 30 * MIB) as loop:
        disks.run("mkswap", "--pagesize", str(page), loop.path)
        assert map_of(disk).extents.total < 90 * MIB
        write(Path(loop.path), (place, word))
        assert "swsuspend" in disks.run("blkid", "--probe", loop.path)
    found = map_of(disk)
    assert found.extents == found.unmapped == Extents([(0, 100 * MIB)])
    assert found.warnings == (
        "the whole disk is copied: partition 2 holds a hibernated system, whose memory may know "
        "of more than the disk",
    )
