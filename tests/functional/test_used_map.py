# SPDX-License-Identifier: Apache-2.0
"""The used map of real file systems: what it leaves out is missed by nobody.

Files and junk are written, the junk is deleted, and only what the map says is copied into an empty
file. There the file system's own check finds nothing wrong, every file is as before, and nothing
of the junk is found.
"""

import contextlib
import hashlib
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa_snapshot.devices import namespace, overlay
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from tests.functional import flips
from tests.functional.maps import map_of, only
from tests.lab import disks, file_systems
from tests.lab.file_systems import (
    JUNK,
    MIB,
    check,
    copy,
    crash,
    fill,
    has_junk,
    junk_in,
    make_file,
    write_some,
)


def prove(fs: str, kind: str, original: Path, tmp_path: Path) -> UsedMap:
    """Copy what the map says, check the copy, and compare the files."""
    found = map_of(original)
    size = original.stat().st_size
    target = copy(original, found.extents, tmp_path / "copy.raw", size)
    with disks.LoopDevice(target) as loop:
        check(kind, loop.path)
    whole = disks.Partition("all", fs, 0, size)
    assert disks.checksums(target, whole) == disks.checksums(original, whole)
    assert junk_in(original), "the junk is not even on the disk"
    assert not has_junk(target)
    target.unlink()
    return found


EXT = {
    "ext2": ["mkfs.ext2"],
    "ext3": ["mkfs.ext3"],
    "ext4": ["mkfs.ext4"],
    "1k blocks": ["mkfs.ext4", "-b", "1024"],
    "ext2, 1k blocks": ["mkfs.ext2", "-b", "1024"],
    "bigalloc": ["mkfs.ext4", "-O", "bigalloc"],
    "no flex_bg": ["mkfs.ext4", "-O", "^flex_bg"],
    "no checksums": ["mkfs.ext4", "-O", "^metadata_csum,^uninit_bg"],
    "uninit_bg": ["mkfs.ext4", "-O", "^metadata_csum,uninit_bg"],
    "meta_bg": ["mkfs.ext4", "-O", "meta_bg,^resize_inode"],
    "sparse_super2": ["mkfs.ext4", "-O", "sparse_super2"],
    "32 bits": ["mkfs.ext4", "-O", "^64bit"],
    "inline_data": ["mkfs.ext4", "-O", "inline_data,^resize_inode"],
    "no journal": ["mkfs.ext4", "-O", "^has_journal"],
    "many inodes": ["mkfs.ext4", "-i", "4096", "-I", "512"],
}


@pytest.mark.parametrize("name", EXT)
def test_of_an_ext_file_system_only_what_it_uses_is_in_the_map(name: str, tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 300 * MIB + 512 * 5)
    disks.run(*EXT[name], "-q", "-F", original, "%dk" % (299 * 1024))
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ext4") as top:
        fill(top)
    found = prove("ext4", "ext", original, tmp_path)
    part = only(found)
    assert part.used < 60 * MIB
    assert part.fs is not None
    assert part.fs.startswith("ext")
    assert part.used_source.startswith("dumpe2fs: free blocks")
    assert found.warnings == ()
    assert found.unmapped == Extents([(299 * MIB, MIB + 512 * 5)]), "behind the file system"


XFS = {
    "v5": ["-m", "reflink=1,rmapbt=1"],
    "small blocks": ["-b", "size=1024"],
    "v4": ["-m", "crc=0"],
}


@pytest.mark.parametrize("name", XFS)
def test_of_an_xfs_only_what_it_uses_is_in_the_map(name: str, tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 330 * MIB)
    disks.run("mkfs.xfs", "-q", *XFS[name], original)
    with disks.LoopDevice(original) as loop, contextlib.ExitStack() as stack:
        try:
            top = stack.enter_context(disks.mounted(loop.path, "xfs"))
        except RuntimeError as exc:
            if name != "v4" or "wrong fs type" not in str(exc):
                raise
            pytest.skip("the kernel does not mount xfs v4 any more")
        fill(top)
    found = prove("xfs", "xfs", original, tmp_path)
    assert only(found).used < 160 * MIB, "its log has 64 MiB"
    assert (found.warnings, only(found).journal) == ((), "clean")


def test_of_swap_only_its_header_is_in_the_map(tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 64 * MIB)
    original.write_bytes(os.urandom(64 * MIB))
    disks.run("mkswap", original)
    found = map_of(original)
    assert found.extents == Extents([(0, 4096)])
    assert only(found).used_source == "swap: its header"


@pytest.mark.parametrize("signature", [b"S1SUSPEND\0", b"SWAP-SPACE", b"\0" * 10])
def test_a_hibernated_or_old_swap_is_copied_whole(tmp_path: Path, signature: bytes) -> None:
    original = make_file(tmp_path / "disk.raw", 8 * MIB)
    disks.run("mkswap", original)
    with original.open("r+b") as disk:
        disk.seek(4086)
        disk.write(signature)
    assert map_of(original).extents.total == 8 * MIB


def test_swap_with_large_pages_is_copied_whole(tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 8 * MIB)
    disks.run("mkswap", "--pagesize", "65536", original)
    assert map_of(original).extents.total == 8 * MIB


def _mkfs_at(path: Path | str, start: int, size: int, sector_size: int = 512) -> None:
    with disks.LoopDevice(path, start, size, sector_size=sector_size) as loop:
        disks.run("mkfs.ext4", "-q", "-F", loop.path)


def _within(extents: Extents, start: int, length: int) -> bool:
    return extents.clipped(start, length).total == length


@pytest.mark.parametrize("as_device", [True, False])
@pytest.mark.parametrize("sector_size", [512, 4096])
def test_everything_outside_partitions_is_in_the_map(
    tmp_path: Path, sector_size: int, as_device: bool
) -> None:
    size = 100 * MIB
    path = make_file(tmp_path / "disk.raw", size)
    with disks.LoopDevice(path, sector_size=sector_size) as loop:
        disks.run("sfdisk", "-q", loop.path,
                  stdin="label: gpt\nstart=%d, size=32MiB\nstart=%d, size=16MiB\n"
                  % (MIB // sector_size, 50 * MIB // sector_size))  # fmt: skip
    _mkfs_at(path, MIB, 32 * MIB, sector_size)
    _mkfs_at(path, 50 * MIB, 16 * MIB, sector_size)
    if as_device:
        with disks.LoopDevice(path, sector_size=sector_size) as loop:
            found = map_of(loop.path)
    else:
        found = map_of(path)
    assert [(part.number, part.start, part.size, part.fs) for part in found.partitions] == [
        (1, MIB, 32 * MIB, "ext4"), (2, 50 * MIB, 16 * MIB, "ext4"),
    ]  # fmt: skip
    outside = Extents([(0, MIB), (33 * MIB, 17 * MIB), (66 * MIB, 34 * MIB)])
    assert found.unmapped == outside
    assert found.extents.total == outside.total + sum(part.used for part in found.partitions)
    assert all(part.used < 0.6 * part.size for part in found.partitions)


def test_logical_partitions_are_mapped_and_their_tables_kept(tmp_path: Path) -> None:
    path = make_file(tmp_path / "disk.raw", 100 * MIB)
    disks.run("sfdisk", "-q", path, stdin="label: dos\nsize=10MiB, type=83\ntype=5\n"
              "size=20MiB, type=83\nsize=30MiB, type=83\n")  # fmt: skip
    with open_source(str(path)) as source:
        slots = {part.number: part for part in map_disk(source).partitions}
    assert sorted(slots) == [1, 5, 6]
    for number in (5, 6):
        _mkfs_at(path, slots[number].start, slots[number].size)
    found = map_of(path)
    assert {part.number: part.fs for part in found.partitions} == {1: None, 5: "ext4", 6: "ext4"}
    for number in (5, 6):
        assert _within(found.unmapped, slots[number].start - MIB, MIB), "its extended boot record"
    assert found.extents.total < 60 * MIB


@pytest.mark.parametrize(
    "rows",
    [[(2048, 40960), (30000, 40960)], [(2048, 4194304)], [(2048, 0xFFFFFFFF)]],
    ids=["overlapping", "beyond the disk", "far beyond the disk"],
)
def test_a_table_that_cannot_be_is_not_believed(
    tmp_path: Path, rows: list[tuple[int, int]]
) -> None:
    path = make_file(tmp_path / "disk.raw", 64 * MIB)
    with path.open("r+b") as disk:
        disk.seek(446)
        for start, size in rows:
            disk.write(struct.pack("<4xB3xII", 0x83, start, size))
        disk.seek(510)
        disk.write(b"\x55\xaa")
    found = map_of(path)
    assert found.extents == found.unmapped == Extents([(0, 64 * MIB)])
    assert found.partitions == ()
    assert "is not believed" in found.warnings[0]


def test_gpt_headers_for_both_sizes_of_sectors_are_not_believed(tmp_path: Path) -> None:
    path = make_file(tmp_path / "disk.raw", 8 * MIB)
    disks.run("sfdisk", "-q", path, stdin="label: gpt\nsize=2MiB\n")
    with path.open("r+b") as disk:
        disk.seek(4096)
        disk.write(b"EFI PART")
    assert "not believed" in map_of(path).warnings[0]


def test_an_empty_disk_and_noise_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    for content in (bytes(MIB), os.urandom(MIB)):
        path.write_bytes(content)
        assert map_of(path).unmapped == Extents([(0, MIB)])


def test_of_a_large_disk_that_is_empty_little_is_in_the_map(tmp_path: Path) -> None:
    size = 2 * 1024**4
    path = make_file(tmp_path / "disk.raw", size)
    disks.run("mkfs.ext4", "-q", "-F", path)
    with open_source(str(path)) as source:
        found = map_disk(source)
    assert found.extents.total < 2000 * MIB


# what makes it; the MiB that it has; where bits are flipped
FUZZ = {
    "gpt": (["sfdisk", "-q"], 40, [(446, 66), (512, 92), (1024, 512)]),
    "mbr": (["sfdisk", "-q"], 40, [(446, 66), (MIB + 446, 66)]),
    "ext4": (["mkfs.ext4", "-q", "-F"], 40, [(1024, 1024), (4096, 64), (1024, 200)]),
    "ext4 without checksums": (
        ["mkfs.ext4", "-q", "-F", "-O", "^metadata_csum,^uninit_bg"], 40,
        [(1024, 1024), (4096, 64), (1024, 200)],
    ),
    "xfs": (["mkfs.xfs", "-q"], 320, [(0, 2048), (0, 512), (4096, 128), (8192, 128)]),
    "btrfs": (["mkfs.btrfs", "-q"], 120, [(65536, 512), (65536, 4096)]),
    "vfat": (["mkfs.vfat"], 40, [(0, 96), (0, 512), (2048, 64)]),
    # its boot regions, the table, and the root directory with what names the bitmap
    "exfat": (
        ["mkfs.exfat"], 40, [(64, 64), (0, 12288), (MIB, 24), (2 * MIB + 3 * 4096, 96)],
    ),
    "swap": (["mkswap"], 8, [(1024, 64), (4080, 16)]),
}  # fmt: skip
TABLES = {
    "gpt": "label: gpt\nstart=10MiB, size=9MiB\nsize=9MiB\n",
    "mbr": "label: dos\nstart=1MiB, type=5\nstart=10MiB, size=9MiB\nsize=9MiB\n",
}
# What is flipped in others makes, if it is consistent, a file system like another.
NOTICED = FUZZ.keys() - {"vfat", "ext4 without checksums"}


@pytest.mark.parametrize("kind", FUZZ)
def test_whatever_is_flipped_there_is_a_map_within_the_disk(tmp_path: Path, kind: str) -> None:
    command, mib, places = FUZZ[kind]
    path = make_file(tmp_path / "disk.raw", mib * MIB)
    disks.run(*command, path, stdin=TABLES.get(kind))
    _populate(path, kind)
    known = map_of(path).extents
    assert known.total < mib * MIB, "nothing could be skipped"
    campaign = flips.Campaign(kind, places)
    for bits in campaign:
        with flips.applied(path, bits), open_source(str(path)) as source:
            found = map_disk(source)
        campaign.keep(flips.outcome(found), bits)
        assert 0 < found.extents.end <= mib * MIB, bits
        assert found.extents.union(found.unmapped) == found.extents, bits
        assert all(part.used <= part.size for part in found.partitions), bits
        if kind in NOTICED:
            assert not known.without(found.extents), "a used block is skipped: %s" % (bits,)


def _populate(path: Path, kind: str) -> None:
    """Write files and delete some, so that used blocks lie between free ones."""
    with contextlib.ExitStack() as stack:
        if kind in TABLES:
            _mkfs_at(path, 10 * MIB, 9 * MIB)
            loop = stack.enter_context(disks.LoopDevice(path, 10 * MIB, 9 * MIB))
            top = stack.enter_context(disks.mounted(loop.path, "ext4"))
        elif kind == "exfat":
            top = stack.enter_context(_exfat(path))
        elif kind in ("swap", "vfat"):
            return
        else:
            loop = stack.enter_context(disks.LoopDevice(path))
            top = stack.enter_context(disks.mounted(loop.path, kind.split(maxsplit=1)[0]))
        for index in range(30):
            (top / str(index)).write_bytes(random.Random(index).randbytes(60_000))
        disks.run("sync", "-f", top)
        for index in range(0, 30, 3):
            (top / str(index)).unlink()


KINDS = {"ext3": "ext", "ext4": "ext", "xfs": "xfs"}


@pytest.mark.parametrize("fs", KINDS)
def test_a_crashed_file_system_loses_nothing(fs: str, tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 330 * MIB)
    disks.run("mkfs." + fs, "-q", original)
    with disks.LoopDevice(original) as loop:
        with disks.mounted(loop.path, fs) as top:
            fill(top)
        with disks.mounted(loop.path, fs) as top:
            expected = crash(top)
    found = map_of(original)
    assert only(found).journal == "dirty, replayed on an overlay", found.warnings
    assert only(found).used < 160 * MIB
    target = copy(original, found.extents, tmp_path / "copy.raw", 330 * MIB)
    # Not none: a block to which the journal gives its first content (a new directory) is copied
    # with what it had before, and recovery of xfs reads blocks that are free afterwards.
    assert junk_in(target) < junk_in(original) / 20
    # as the kernel of a restored machine does it
    with disks.LoopDevice(target) as loop:
        with disks.mounted(loop.path, "ext4" if fs == "ext3" else fs):
            pass
        check(KINDS[fs], loop.path)
    files = disks.checksums(target, disks.Partition("all", KINDS_MOUNT[fs], 0, 330 * MIB))
    assert expected.items() <= {name: words.split()[3] for name, words in files.items()
                                if "links=1 " in words}.items()  # fmt: skip


KINDS_MOUNT = {"ext3": "ext4", "ext4": "ext4", "xfs": "xfs"}


BTRFS = {
    "default": [],
    "single metadata": ["-m", "single"],
    "mixed": ["--mixed"],
    "small nodes, old": ["-n", "4096", "-O", "^no-holes", "-R", "^free-space-tree"],
}


@pytest.mark.parametrize("name", BTRFS)
def test_of_a_btrfs_only_what_it_uses_is_in_the_map(name: str, tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 300 * MIB)
    disks.run("mkfs.btrfs", "-q", *BTRFS[name], original)
    with (
        disks.LoopDevice(original) as loop,
        disks.mounted(loop.path, "btrfs", "nodiscard,compress=zstd") as top,
    ):
        fill(top)
        disks.run("btrfs", "subvolume", "snapshot", top, top / "snap")
        (top / "d1/0-0").write_bytes(os.urandom(100_000))
        disks.run("btrfs", "filesystem", "sync", top)
    found = prove("btrfs", "btrfs", original, tmp_path)
    assert only(found).used < 60 * MIB
    assert found.warnings == ()


def test_a_btrfs_with_a_log_tree_is_copied_whole(tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 300 * MIB)
    disks.run("mkfs.btrfs", "-q", original)
    with (
        disks.LoopDevice(original) as loop,
        disks.mounted(loop.path, "btrfs") as top,
        (top / "file").open("wb", buffering=0) as file,
    ):
        file.write(bytes(100_000))
        os.fsync(file.fileno())
        disks.run("cp", "--sparse=always", original, tmp_path / "crashed.raw")
    found = map_of(tmp_path / "crashed.raw")
    assert found.extents.total == 300 * MIB
    assert "log tree" in found.warnings[0]


def test_a_btrfs_of_two_devices_is_copied_whole(tmp_path: Path) -> None:
    one, two = (make_file(tmp_path / name, 200 * MIB) for name in ("one", "two"))
    disks.run("mkfs.btrfs", "-q", one, two)
    assert map_of(one).extents.total == 200 * MIB


@pytest.mark.parametrize(("bits", "mib"), [(12, 16), (16, 100), (32, 600)])
def test_of_a_vfat_only_what_it_uses_is_in_the_map(bits: int, mib: int, tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", mib * MIB)
    disks.run("mkfs.vfat", "-F", str(bits), original)
    numbers = random.Random(bits)
    tree = tmp_path / "tree"
    tree.mkdir()
    for index in range(20):
        write_some(tree / str(index % 3), numbers, 2, index)
    (tmp_path / "junk").write_bytes(JUNK * 40000)
    disks.run("mcopy", "-i", original, tmp_path / "junk", "::junk")
    disks.run("mcopy", "-s", "-i", original, *tree.iterdir(), "::")
    disks.run("mdel", "-i", original, "::junk")
    found = map_of(original)
    assert only(found).used < 12 * MIB
    target = copy(original, found.extents, tmp_path / "copy.raw", mib * MIB)
    disks.run("fsck.vfat", "-n", target)
    whole = disks.Partition("all", "vfat", 0, mib * MIB)
    files = disks.checksums(target, whole)
    assert files.keys() == disks.checksums(original, whole).keys()
    assert sorted(line.split()[3] for line in files.values() if "links=1 " in line) == sorted(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in tree.rglob("*-*")
    )
    assert has_junk(original)
    assert not has_junk(target)


def test_of_an_exfat_only_what_it_uses_is_in_the_map(tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", 100 * MIB)
    disks.run("mkfs.exfat", original)
    with _exfat(original) as top:
        numbers = random.Random(6)
        for index in range(20):
            write_some(top / f"d{index % 3}", numbers, 2, index)
            (top / f"junk{index}").write_bytes(JUNK * 20000)
        os.sync()
        for path in top.glob("junk*"):
            path.unlink()
    found = map_of(original)
    assert only(found).used < 15 * MIB
    target = copy(original, found.extents, tmp_path / "copy.raw", 100 * MIB)
    disks.run("fsck.exfat", "-n", target)
    with _exfat(original) as top:
        expected = _contents(top)
    with _exfat(target) as top:
        assert _contents(top) == expected
    assert len(expected) == 40
    assert has_junk(original)
    assert not has_junk(target)


@contextlib.contextmanager
def _exfat(path: Path) -> Iterator[Path]:
    with disks.LoopDevice(path) as loop, file_systems.mounted_exfat(loop.path) as top:
        yield top


def _contents(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in top.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("command", "place", "bit"),
    [(["mkfs.vfat", "-F", "16"], 0x25, 1), (["mkfs.vfat", "-F", "32"], 0x41, 1),
     (["mkfs.exfat"], 106, 2)],
)  # fmt: skip
def test_a_fat_that_was_not_unmounted_is_copied_whole(
    tmp_path: Path, command: list[str], place: int, bit: int
) -> None:
    original = make_file(tmp_path / "disk.raw", 100 * MIB)
    disks.run(*command, original)
    with original.open("r+b") as disk:
        disk.seek(place)
        disk.write(bytes([bit]))
    found = map_of(original)
    assert found.extents.total == 100 * MIB
    assert "not unmounted" in found.warnings[0]


@pytest.mark.parametrize("missing", ["nbdfuse", "nbdkit", "unshare", "e2fsck"])
def test_where_no_overlay_can_be_a_dirty_partition_is_copied_whole(
    missing: str, dirty_ext4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / missing).write_text("#!/bin/sh\nexit 127\n")
    (programs / missing).chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (programs, os.environ["PATH"]))
    monkeypatch.setattr(namespace, "_READY_TIMEOUT_S", 0.5)
    found = map_of(dirty_ext4)
    assert found.extents == found.unmapped == Extents([(0, 64 * MIB)])
    assert "its journal is dirty" in found.warnings[0]


def test_an_overlay_that_is_full_is_told(dirty_ext4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "_BEYOND_LOG", 128 * 1024 - 4 * MIB)
    found = map_of(dirty_ext4)
    assert found.extents == Extents([(0, 64 * MIB)])
    assert "its journal is dirty" in found.warnings[0]


@pytest.fixture
def dirty_ext4(tmp_path: Path) -> Path:
    path = make_file(tmp_path / "dirty.raw", 64 * MIB)
    disks.run("mkfs.ext4", "-q", "-F", "-J", "size=4", path)
    with disks.LoopDevice(path) as loop, disks.mounted(loop.path, "ext4") as top:
        for index in range(2000):
            (top / ("directory-%d" % index)).mkdir()
        descriptor = os.open(top, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        disks.run("xfs_io", "-x", "-c", "shutdown -f", top)
    return path


def _with_errors(disk: Path, _other: Path) -> None:
    disks.run("mkfs.ext4", "-q", disk)
    disks.run("debugfs", "-w", "-R", "ssv state 3", disk)


def _with_a_journal_elsewhere(disk: Path, other: Path) -> None:
    disks.run("mke2fs", "-q", "-O", "journal_dev", "-b", "4096", other)
    with disks.LoopDevice(other) as loop:
        disks.run("mkfs.ext4", "-q", "-b", "4096", "-J", "device=" + loop.path, disk)


def _with_a_log_elsewhere(disk: Path, other: Path) -> None:
    disks.run("mkfs.xfs", "-q", "-l", "logdev=%s,size=64m" % other, disk)


def _with_a_realtime_device(disk: Path, other: Path) -> None:
    disks.run("mkfs.xfs", "-q", "-r", "rtdev=%s" % other, disk)


def _that_needs_repair(disk: Path, _other: Path) -> None:
    disks.run("mkfs.xfs", "-q", disk)
    fields = disks.run("xfs_db", "-r", "-c", "sb 0", "-c", "print features_incompat", disk)
    bits = int(fields.split("=")[1], 0) | 0x10
    disks.run("xfs_db", "-x", "-c", "sb 0", "-c", "write features_incompat 0x%x" % bits, disk)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_with_errors, "its state is 'clean with errors'"),
     (_with_a_journal_elsewhere, "its journal is on another device"),
     (_with_a_log_elsewhere, "having an external log"),
     (_with_a_realtime_device, "a realtime device"),
     (_that_needs_repair, "unknown features (incompatible 0x10)")],
)  # fmt: skip
def test_a_file_system_that_is_not_all_here_or_not_well_is_copied_whole(
    tmp_path: Path, make: Callable[[Path, Path], None], reason: str
) -> None:
    disk, other = (make_file(tmp_path / name, 320 * MIB) for name in ("disk", "other"))
    make(disk, other)
    found = map_of(disk)
    assert found.extents == found.unmapped == Extents([(0, 320 * MIB)])
    assert reason in found.warnings[0]


# As the tools write them: at which offset, and what. A uberblock of ZFS counts once it comes often.
SIGNATURES = {
    "crypto_LUKS": (
        [(0, b"LUKS\xba\xbe\0\2" + struct.pack(">Q", 16384))], "LUKS: encrypted",
    ),
    "bcache": (
        [(4096 + 8, struct.pack("<QQ", 8, 0) + bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"))],
        "bcache: its cache may hold what is not here",
    ),
    "zfs_member": (
        [(128 * 1024 + index * 1024, struct.pack("<QQQ", 0x00BAB10C, 5000, index + 1))
         for index in range(8)],
        "ZFS: not examined",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIGNATURES)
def test_what_is_not_examined_is_copied_whole_and_named(tmp_path: Path, kind: str) -> None:
    disk = make_file(tmp_path / "disk", 64 * MIB)
    places, reason = SIGNATURES[kind]
    with disk.open("r+b") as file:
        for offset, content in places:
            file.seek(offset)
            file.write(content)
    found = map_of(disk)
    assert only(found).fs == kind
    assert found.extents == found.unmapped == Extents([(0, 64 * MIB)])
    assert found.warnings == ("partition 0 (%s) is copied whole: %s" % (kind, reason),)
