# SPDX-License-Identifier: Apache-2.0
"""The structures of exFAT are understood, or refused: nothing between."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa_snapshot.devices.file_systems import exfat, exfat_boot
from ipa_snapshot.devices.file_systems.base import NotUnderstood
from ipa_snapshot.devices.file_systems.exfat_boot import Volume

END = 0xFFFFFFFF


def _boot_sector(**changed: int) -> bytes:
    """Return the boot sector of 1000 clusters of 4096 bytes, 8 sectors each."""
    words = {"length": 8208, "table": 128, "per_table": 8, "heap": 200, "clusters": 1000,
             "root": 5, "version": 0x100, "flags": 0, "shift": 9, "per_cluster": 3, "tables": 1,
             "zero": 0, **changed}  # fmt: skip
    boot = bytearray(512)
    boot[3:11], boot[63], boot[510:] = b"EXFAT   ", words["zero"], b"\x55\xaa"
    struct.pack_into(
        "<Q6IHHBBB", boot, 72, words["length"], words["table"], words["per_table"], words["heap"],
        words["clusters"], words["root"], 7, words["version"], words["flags"], words["shift"],
        words["per_cluster"], words["tables"],
    )  # fmt: skip
    return bytes(boot)


VOLUME = Volume(8208 * 512, 128 * 512, 200 * 512, 4096, 1000, 5)


@pytest.mark.parametrize("changed", [{}, {"flags": 8}, {"version": 0x101}, {"root": 1001}], ids=str)
def test_a_boot_sector_is_read(changed: dict[str, int]) -> None:
    found = exfat_boot.read_boot_sector(_boot_sector(**changed))
    assert (found.size, found.table, found.heap) == (VOLUME.size, VOLUME.table, VOLUME.heap)
    assert (found.cluster, found.clusters) == (VOLUME.cluster, VOLUME.clusters)
    assert found.place(2) == found.heap


@pytest.mark.parametrize(
    "changed",
    [{"length": 8199}, {"table": 23}, {"table": 193}, {"per_table": 7}, {"per_table": 73},
     {"heap": 135}, {"heap": 209}, {"clusters": 0}, {"clusters": 1002}, {"root": 1}, {"root": 1002},
     {"version": 0x200}, {"version": 0}, {"shift": 8}, {"shift": 13}, {"per_cluster": 17},
     {"per_cluster": 4}, {"tables": 0}, {"tables": 2}, {"zero": 1},
     *({"flags": 1 << bit} for bit in range(16) if bit != 3)],
    ids=str,
)  # fmt: skip
def test_a_boot_sector_that_is_not_understood_is_refused(changed: dict[str, int]) -> None:
    with pytest.raises(NotUnderstood):
        exfat_boot.read_boot_sector(_boot_sector(**changed))


def _region(boot: bytes, sector: int = 512) -> bytes:
    region = boot.ljust(11 * sector, b"\x5a")
    return region + struct.pack("<I", exfat_boot.checksum(region)) * (sector // 4)


def _descriptor(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize(("shift", "per_cluster"), [(9, 3), (12, 0)])
def test_both_boot_regions_are_read(shift: int, per_cluster: int, tmp_path: Path) -> None:
    boot = _boot_sector(shift=shift, per_cluster=per_cluster)
    in_use = bytearray(boot)
    in_use[106], in_use[112] = 8, 50
    regions = _region(bytes(in_use), 1 << shift) + _region(boot, 1 << shift)
    fd = _descriptor(tmp_path / "disk", regions)
    try:
        assert exfat_boot.read_boot_regions(fd).cluster == 4096
    finally:
        os.close(fd)


_GOOD = _region(_boot_sector())


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        (b"", "no boot sector"),
        (_GOOD, "checksum"),
        (_GOOD[:-1] + b"\0" + _GOOD, "checksum"),
        (_GOOD + _GOOD[:-1], "checksum"),
        (_GOOD + _GOOD[:600] + b"\0" + _GOOD[601:], "checksum"),
        (_GOOD + _region(_boot_sector(root=6)), "differ"),
        (_GOOD.replace(b"EXFAT", b"EXTAF") + _GOOD, "no boot sector"),
        (_GOOD.replace(b"\x55\xaa", b"\xaa\x55", 1) + _GOOD, "no boot sector"),
    ],
)
def test_boot_regions_that_are_damaged_are_refused(
    regions: bytes, reason: str, tmp_path: Path
) -> None:
    fd = _descriptor(tmp_path / "disk", regions)
    try:
        with pytest.raises(NotUnderstood, match=reason):
            exfat_boot.read_boot_regions(fd)
    finally:
        os.close(fd)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[exfat.Table]:
    """Make a table with the chains 5, 10-13, 20 → 30-31 → 21, and ones that are wrong."""
    entries = {
        0: 0xFFFFFFF8, 1: END, 5: END, 10: 11, 11: 12, 12: 13, 13: END, 20: 30, 30: 31, 31: 21,
        21: END, 40: 40, 50: 51, 51: 50, 60: 61, 61: 62, 62: 60, 70: 1, 71: 1002, 72: 0xFFFFFFF7,
        1001: END,
    }  # fmt: skip
    content = struct.pack("<1002I", *(entries.get(number, 0) for number in range(1002)))
    fd = _descriptor(tmp_path / "disk", bytes(VOLUME.table) + content)
    yield exfat.Table(fd, VOLUME)
    os.close(fd)


def test_a_chain_is_followed_and_its_neighbours_are_put_together(table: exfat.Table) -> None:
    assert table.chain(5, 1) == [(5, 1)]
    assert table.chain(10, 4) == [(10, 4)]
    assert table.chain(20, 9) == [(20, 1), (30, 2), (21, 1)]
    assert table.chain(1001, 9) == [(1001, 1)]


@pytest.mark.parametrize("first", [0, 1, 6, 40, 50, 60, 70, 71, 72, 1002, 0xFFFFFFF7, 10])
def test_a_chain_that_cannot_be_is_refused(table: exfat.Table, first: int) -> None:
    with pytest.raises(NotUnderstood, match="a chain"):
        table.chain(first, 3)


@pytest.mark.parametrize("first", [40, 50, 60])
def test_a_chain_in_very_many_pieces_is_refused(
    table: exfat.Table, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exfat, "_MOST_RUNS", 100)
    with pytest.raises(NotUnderstood, match="too many"):
        table.chain(first, 1 << 32)


@pytest.mark.parametrize("content", [b"", b"\xf8\xff\xff\xff", bytes(8), b"\xff" * 8])
def test_a_table_that_does_not_begin_as_one_is_refused(content: bytes, tmp_path: Path) -> None:
    fd = _descriptor(tmp_path / "disk", bytes(VOLUME.table) + content)
    try:
        with pytest.raises(NotUnderstood, match="its table"):
            exfat.Table(fd, VOLUME)
    finally:
        os.close(fd)


def _entry(kind: int, mark: int = 0) -> bytes:
    return bytes([kind, mark]) + bytes(30)


LABEL, BITMAP, UPCASE, FILE = (_entry(kind) for kind in (0x83, 0x81, 0x82, 0x85))


def test_system_entries_are_found_wherever_they_are() -> None:
    deleted, secondary, guid, end = (_entry(kind) for kind in (0x05, 0xC0, 0xA0, 0))
    bitmap, upcase = _entry(0x81, 1), _entry(0x82, 2)
    expected = {0x81: bitmap, 0x82: upcase}
    assert exfat.system_entries([LABEL + bitmap + upcase + end]) == expected
    assert exfat.system_entries([FILE + secondary + upcase, deleted + guid + bitmap]) == expected
    behind_the_end = [bitmap + upcase + end + BITMAP, BITMAP]
    assert exfat.system_entries(behind_the_end) == expected


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ([], "names no"),
        ([LABEL + UPCASE], "names no"),
        ([LABEL + BITMAP], "names no"),
        ([BITMAP + bytes(32) + UPCASE], "names no"),
        ([BITMAP + UPCASE + BITMAP], "several"),
        ([BITMAP, UPCASE, UPCASE], "several"),
        ([BITMAP + UPCASE + _entry(0x84)], "unknown entries .*0x84"),
        ([BITMAP + UPCASE + _entry(0x80)], "unknown entries"),
        ([BITMAP + UPCASE + _entry(0x9F)], "unknown entries"),
    ],
)
def test_a_root_directory_that_is_not_understood_is_refused(root: list[bytes], reason: str) -> None:
    with pytest.raises(NotUnderstood, match=reason):
        exfat.system_entries(root)
