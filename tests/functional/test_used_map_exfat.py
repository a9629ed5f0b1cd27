# SPDX-License-Identifier: Apache-2.0
"""The used map of exFAT: nothing is lost up to the last cluster; what is odd is copied whole."""

import contextlib
import hashlib
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import exfat_boot
from ipa_snapshot.devices.file_systems.base import NotUnderstood, View
from ipa_snapshot.devices.file_systems.exfat import map_exfat
from tests.functional.maps import map_of, only
from tests.lab import disks
from tests.lab.file_systems import (
    MIB,
    check,
    copy,
    fill,
    has_junk,
    junk_in,
    make_file,
    mounted_exfat,
)

SIZE = 120 * MIB
# bytes of a sector, and the options of mkfs.exfat
SHAPES = {
    "default": (512, []),
    "smallest clusters": (512, ["-c", "512"]),
    "clusters of 32 KiB": (512, ["-c", "32K"]),
    "clusters of 256 KiB": (512, ["-c", "256K"]),
    "bitmap among the tables": (512, ["--pack-bitmap"]),
    "4k sectors": (4096, ["-c", "4K"]),
    "4k sectors, large clusters": (4096, ["-c", "64K"]),
}


def mkfs(path: Path, *options: str, size: int = SIZE, sector: int = 512) -> Path:
    make_file(path, size)
    with disks.LoopDevice(path, sector_size=sector) as loop:
        disks.run("mkfs.exfat", *options, loop.path)
    return path


@contextlib.contextmanager
def mounted(path: Path, sector: int = 512) -> Iterator[Path]:
    with disks.LoopDevice(path, sector_size=sector) as loop, mounted_exfat(loop.path) as top:
        yield top


def contents(path: Path, sector: int = 512) -> dict[str, str]:
    with mounted(path, sector) as top:
        return {
            str(file.relative_to(top)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in top.rglob("*")
            if file.is_file()
        }


def prove(original: Path, tmp_path: Path, sector: int = 512) -> Path:
    """Copy what the map says, and see that every file is there."""
    found = map_of(original)
    assert found.warnings == ()
    assert only(found).used_source == "exFAT: allocation bitmap"
    target = copy(original, found.extents, tmp_path / "copy.raw", original.stat().st_size)
    with disks.LoopDevice(target, sector_size=sector, read_only=True) as loop:
        check("exfat", loop.path)
    assert contents(target, sector) == contents(original, sector)
    return target


def whole(path: Path) -> str:
    """See that it is copied whole, and return why."""
    found = map_of(path)
    assert found.extents == found.unmapped == Extents([(0, path.stat().st_size)])
    return found.warnings[0]


@pytest.mark.parametrize("name", SHAPES)
def test_of_an_exfat_of_any_shape_only_what_it_uses_is_in_the_map(
    name: str, tmp_path: Path
) -> None:
    sector, options = SHAPES[name]
    original = mkfs(tmp_path / "disk.raw", *options, sector=sector)
    with mounted(original, sector) as top:
        fill(top)
    target = prove(original, tmp_path, sector)
    assert only(map_of(original)).used < 60 * MIB
    assert junk_in(original), "the junk is not even on the disk"
    assert not has_junk(target)


def fill_up(path: Path, size_of_file: int) -> dict[str, bytes]:
    """Write files of one size until it is full; return them."""
    numbers = random.Random(2)
    files: dict[str, bytes] = {}
    with mounted(path) as top:
        while True:
            content = numbers.randbytes(size_of_file)
            try:
                (top / str(len(files))).write_bytes(content)
            except OSError:
                (top / str(len(files))).unlink(missing_ok=True)
                return files
            files[str(len(files))] = content


@pytest.mark.parametrize("size_of_file", [4096, 30_000])
def test_of_a_full_exfat_every_file_is_in_the_map(size_of_file: int, tmp_path: Path) -> None:
    original = mkfs(tmp_path / "disk.raw", "-c", "4K", size=6 * MIB)
    assert len(fill_up(original, size_of_file)) > 50
    prove(original, tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("clusters", [895, 896])
def test_the_last_clusters_of_an_exfat_are_in_the_map(
    count: int, clusters: int, tmp_path: Path
) -> None:
    """Whatever lies before them is free, and the bitmap ends within a byte or with one."""
    size = 2 * MIB + clusters * 4096
    original = mkfs(tmp_path / "disk.raw", "-c", "4K", "-b", "1M", size=size)
    files = fill_up(original, 4096)
    with original.open("rb") as disk:
        volume = exfat_boot.read_boot_regions(disk.fileno())
        assert volume.clusters == clusters
        end = volume.place(2 + clusters)
        last = [os.pread(disk.fileno(), 4096, end - 4096 * index) for index in range(1, count + 1)]
    kept = [name for name, content in files.items() if content in last]
    assert len(kept) == count
    with mounted(original) as top:
        for name in files.keys() - kept:
            (top / name).unlink()
    prove(original, tmp_path)
    assert list(map_of(original).extents)[-1] == (end - count * 4096, count * 4096)


@contextlib.contextmanager
def changed_boot(path: Path) -> Iterator[bytearray]:
    """Change the boot sector, with both copies and their checksums."""
    with path.open("r+b") as disk:
        region = bytearray(disk.read(11 * 512))
        yield region
        checksum = struct.pack("<I", exfat_boot.checksum(bytes(region))) * 128
        disk.seek(0)
        disk.write((bytes(region) + checksum) * 2)


def set_boot(offset: int, form: str, change: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with changed_boot(path) as region:
            (before,) = struct.unpack_from(form, region, offset)
            struct.pack_into(form, region, offset, before + change)

    return apply


def _write(place: Callable[[exfat_boot.Volume], int], content: bytes) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with path.open("r+b") as disk:
            volume = exfat_boot.read_boot_regions(disk.fileno())
            os.pwrite(disk.fileno(), content, place(volume))

    return apply


def in_root(offset: int, content: bytes) -> Callable[[Path], None]:
    """Write to the root directory, which has the label, the bitmap and the up-case table."""
    return _write(lambda volume: volume.place(volume.root) + offset, content)


def in_table(number: int, following: int) -> Callable[[Path], None]:
    return _write(lambda volume: volume.table + 4 * number, struct.pack("<I", following))


def in_bitmap(byte: int) -> Callable[[Path], None]:
    return _write(lambda volume: volume.place(2), bytes([byte]))


# of 4096 bytes; 2 is the bitmap's, 3 and 4 are the up-case table's, 5 is the root directory's
CLUSTERS = 4608
BITMAP = CLUSTERS // 8
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "root outside": (set_boot(96, "<I", CLUSTERS + 2 - 5), "contradicts itself"),
    "root in cluster 1": (set_boot(96, "<I", -4), "contradicts itself"),
    "larger than its partition": (set_boot(72, "<Q", 1), "its partition"),
    "more clusters than room": (set_boot(92, "<I", 1), "contradicts itself"),
    "fewer clusters": (set_boot(92, "<I", -8), "an allocation bitmap of"),
    "another heap": (set_boot(88, "<I", -8), "root directory"),
    "another table": (set_boot(80, "<I", 1), "its table does not begin"),
    "two tables": (set_boot(110, "<B", 1), "with 2 tables"),
    "second table active": (set_boot(106, "<H", 1), "flags 0x1"),
    "dirty": (set_boot(106, "<H", 2), "it was not unmounted"),
    "media failure": (set_boot(106, "<H", 4), "flags 0x4"),
    "unknown flag": (set_boot(106, "<H", 16), "unknown features"),
    "another version": (set_boot(104, "<H", 0x100), "version 0x200"),
    "wrong checksum": (_write(lambda _: 600, b"x"), "wrong checksum"),
    "wrong checksum of the copy": (_write(lambda _: 12 * 512 + 96, b"x"), "wrong checksum"),
    "loop in the root": (in_table(5, 5), "without an end"),
    "root ends in nothing": (in_table(5, 0), "which is none"),
    "loop in the bitmap": (in_table(2, 2), "without an end"),
    "bitmap goes on outside": (in_table(2, 0xFFFFFF00), "too many clusters|which is none"),
    "bad cluster in the up-case table": (in_table(3, 0xFFFFFFF7), "which is none"),
    "short up-case table": (in_table(3, 0xFFFFFFFF), "shorter than its file"),
    "no bitmap": (in_root(32, b"\x01"), "names no allocation bitmap"),
    "end before the bitmap": (in_root(32, b"\0"), "names no allocation bitmap"),
    "two bitmaps": (in_root(0, b"\x81"), "several entries 0x81"),
    "two up-case tables": (in_root(0, b"\x82"), "several entries 0x82"),
    "unknown entry": (in_root(0, b"\x86"), "unknown entries"),
    "bitmap of the second table": (in_root(33, b"\1"), "flags 0x1"),
    "bitmap too small": (in_root(56, struct.pack("<Q", BITMAP - 1)), "an allocation bitmap of"),
    "bitmap too large": (in_root(56, struct.pack("<Q", BITMAP + 1)), "an allocation bitmap of"),
    "bitmap of exbibytes": (in_root(56, b"\xff" * 8), "an allocation bitmap of"),
    "bitmap outside": (in_root(52, struct.pack("<I", CLUSTERS + 2)), "which is none"),
    "bitmap in cluster 0": (in_root(52, struct.pack("<I", 0)), "which is none"),
    "bitmap in the root": (in_root(52, struct.pack("<I", 5)), "share clusters|own files free"),
    "up-case table of exbibytes": (in_root(88, b"\xff" * 8), "an up-case table of"),
    "bitmap free": (in_bitmap(0b1110), "own files free"),
    "up-case table free": (in_bitmap(0b1101), "own files free"),
    "root free": (in_bitmap(0b0111), "own files free"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_exfat_that_is_not_understood_is_copied_whole(name: str, tmp_path: Path) -> None:
    damage, reason = HOSTILE[name]
    original = mkfs(tmp_path / "disk.raw", "-c", "4K", size=20 * MIB)
    with original.open("rb") as disk:
        volume = exfat_boot.read_boot_regions(disk.fileno())
    assert (volume.clusters, volume.root) == (CLUSTERS, 5)
    assert map_of(original).warnings == ()
    damage(original)
    warning = whole(original)
    assert any(one in warning for one in reason.split("|")), warning


def test_an_exfat_whose_bitmap_is_in_pieces_is_copied_whole(tmp_path: Path) -> None:
    original = mkfs(tmp_path / "disk.raw", "-c", "512", size=8 * MIB)
    with original.open("rb") as disk:
        table = exfat_boot.read_boot_regions(disk.fileno()).table
        assert os.pread(disk.fileno(), 8, table + 8) == struct.pack("<II", 3, 4)
    in_table(2, 4)(original)
    in_table(4, 3)(original)
    in_table(3, 0xFFFFFFFF)(original)
    assert "an allocation bitmap in several pieces" in whole(original)


# in how many ranges their used halves are, or None where those are too many
ALTERNATING = {"128K": 262_144, "4K": None}
# what is mapped in a process of its own, which tells its time and what it took at most
PROGRAM = """
import resource, sys, time
from ipa_snapshot.devices.file_systems.base import NotUnderstood, View
from ipa_snapshot.devices.file_systems.exfat import map_exfat
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    said = len(map_exfat(View(sys.argv[1], int(sys.argv[2]))).used)
except NotUnderstood as exc:
    said = str(exc)
print(time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, said)
"""


@pytest.mark.parametrize("cluster", ALTERNATING)
def test_an_exfat_of_alternating_clusters_takes_little_time_and_memory(
    cluster: str, tmp_path: Path
) -> None:
    size = 64 * 1024 * MIB
    original = mkfs(tmp_path / "disk.raw", "-c", cluster, size=size)
    with original.open("r+b") as disk:
        volume = exfat_boot.read_boot_regions(disk.fileno())
        for start in range(0, volume.clusters // 8, MIB):
            length = min(MIB, volume.clusters // 8 - start)
            os.pwrite(disk.fileno(), b"\x55" * length, volume.place(2) + start)
        own = -(-(volume.root + 1) // 8)
        os.pwrite(disk.fileno(), b"\xff" * own, volume.place(2))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, original, str(size)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds, kib, said = done.stdout.split(maxsplit=2)
    assert float(seconds) < 30
    assert int(kib) < 150 * 1024
    expected = ALTERNATING[cluster]
    if expected is None:
        assert "pieces" in said
    else:
        assert abs(int(said) - expected) < 1000


def test_a_partition_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    original = mkfs(tmp_path / "disk.raw", size=8 * MIB)
    for size in (8 * MIB - 512, 3 * MIB, 5000, 100):
        os.truncate(original, size)
        with pytest.raises(NotUnderstood):
            map_exfat(View(str(original), size))
