# SPDX-License-Identifier: Apache-2.0
"""The structures of NTFS are understood, or refused: nothing between."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa_snapshot.devices.file_systems import ntfs
from ipa_snapshot.devices.file_systems import ntfs_records as records
from ipa_snapshot.devices.file_systems.base import NotUnderstood

BOOT = records.Boot(4096, 1000, 4, 1024)


def _boot_sector(**changed: int) -> bytes:
    words = {"sector": 512, "per_cluster": 8, "sectors": 8007, "mft": 4, "record": -10, **changed}
    boot = bytearray(512)
    boot[3:11], boot[510:] = b"NTFS    ", b"\x55\xaa"
    struct.pack_into("<HB", boot, 11, words["sector"], words["per_cluster"])
    struct.pack_into("<QQ", boot, 40, words["sectors"], words["mft"])
    struct.pack_into("<b", boot, 64, words["record"])
    return bytes(boot)


def test_a_boot_sector_is_read() -> None:
    assert records.read_boot_sector(_boot_sector()) == BOOT
    found = records.read_boot_sector(_boot_sector(sector=4096, per_cluster=1, record=1))
    assert (found.cluster, found.record) == (4096, 4096)


@pytest.mark.parametrize(
    "changed",
    [{"sector": 513}, {"sector": 0}, {"per_cluster": 0}, {"per_cluster": 3}, {"per_cluster": 0xF4},
     {"sector": 4096, "per_cluster": 32}, {"mft": 0}, {"mft": 1000}, {"record": -9}, {"record": 0},
     {"record": 100}, {"sectors": 0}, {"record": -128}],
    ids=str,
)  # fmt: skip
def test_a_boot_sector_that_is_not_understood_is_refused(changed: dict[str, int]) -> None:
    with pytest.raises(NotUnderstood):
        records.read_boot_sector(_boot_sector(**changed))
    with pytest.raises(NotUnderstood):
        records.read_boot_sector(b"")


def test_runs_follow_each_other_forwards_and_backwards() -> None:
    pairs = bytes.fromhex("21 05 2c01 11 02 f6 00")
    assert list(records.read_runs(pairs, BOOT)) == [(300 * 4096, 5 * 4096), (290 * 4096, 2 * 4096)]


@pytest.mark.parametrize(
    "pairs",
    ["01 05 00", "11 00 05 00", "11 ff 05 00", "11 05 ff 00", "21 05 e803 00", "21 05 e403 00",
     "10 05 00"],
)  # fmt: skip
def test_runs_that_cannot_be_are_refused(pairs: str) -> None:
    with pytest.raises(NotUnderstood):
        list(records.read_runs(bytes.fromhex(pairs), BOOT))


def _protected(magic: bytes, size: int, content: dict[int, bytes]) -> bytes:
    """Return a record as it is on the disk: each 512 bytes end in the number 7."""
    block = bytearray(size)
    count = size // 512 + 1
    block[:8] = magic + struct.pack("<HH", 40, count)
    for place, words in content.items():
        block[place : place + len(words)] = words
    struct.pack_into("<H", block, 40, 7)
    for part in range(1, count):
        end = part * 512
        block[40 + 2 * part : 42 + 2 * part] = block[end - 2 : end]
        struct.pack_into("<H", block, end - 2, 7)
    return bytes(block)


def test_what_the_update_sequence_replaced_is_put_back() -> None:
    block = _protected(b"INDX", 1024, {510: b"ab", 1022: b"cd"})  # codespell:ignore
    assert block[510:512] == b"\x07\x00"
    fixed = records.fixed_up(block, b"INDX")  # codespell:ignore
    assert (fixed[510:512], fixed[1022:]) == (b"ab", b"cd")


def test_a_record_that_was_not_written_to_its_end_is_refused() -> None:
    block = _protected(b"FILE", 1024, {})
    for wrong in (block[:1022] + b"\x08\x00", b"BAAD" + block[4:], block[:512], block + bytes(512)):
        with pytest.raises(NotUnderstood):
            records.fixed_up(wrong, b"FILE")


@pytest.mark.parametrize(
    ("major", "minor", "flags", "understood"),
    [(3, 1, 0, True), (3, 0, 0, True), (1, 2, 0, False), (3, 2, 0, False),
     *((3, 1, 1 << bit, False) for bit in range(16))],
)  # fmt: skip
def test_a_volume_with_any_flag_is_refused(
    major: int, minor: int, flags: int, understood: bool
) -> None:
    information = struct.pack("<QBBH", 0, major, minor, flags)
    if understood:
        ntfs.check_flags(information)
    else:
        with pytest.raises(NotUnderstood):
            ntfs.check_flags(information)


def _page(
    number: int = 5, in_use: int = 0, flags: int = 0, version: tuple[int, int] = (1, 1),
    magic: bytes = b"RSTR", size: int = 4096,
) -> bytes:  # fmt: skip
    header = struct.pack("<IIHhh", size, 4096, 0x40, version[1], version[0])
    area = struct.pack("<qHHHH", number, 1, 0xFFFF, in_use, flags)
    return _protected(magic, 4096, {16: header, 0x40: area})


@pytest.mark.parametrize(
    ("pages", "understood"),
    [
        ([_page(), _page()], False),
        ([_page(flags=2), _page(flags=2)], True),
        ([_page(in_use=0xFFFF), _page(in_use=0xFFFF)], True),
        ([_page(5), _page(6, flags=2)], True),
        ([_page(5, flags=2), _page(6)], False),
        ([_page(7, flags=2), _page(6)], True),
        ([_page(5, flags=2), _page(5)], False),
        ([_page(5, flags=2), bytes(4096)], False),
        ([b"\xff" * 4096, _page(5, flags=2)], False),
        ([_page(flags=2, version=(2, 0)), _page(flags=2)], False),
        ([_page(flags=2, magic=b"CHKD"), _page(flags=2)], False),
        ([_page(flags=2, size=8192), _page(flags=2)], False),
    ],
)
def test_the_newer_restart_page_tells_whether_the_log_is_clean(
    pages: list[bytes], understood: bool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(pages))
    fd = os.open(log, os.O_RDONLY)
    stream = records.Stream(fd, ((0, 8192),), 8192, 8192)
    try:
        if understood:
            ntfs.check_log(stream)
        else:
            with pytest.raises(NotUnderstood):
                ntfs.check_log(stream)
    finally:
        os.close(fd)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "device"
    path.write_bytes(bytes(range(100)))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_file_is_read_over_its_runs(device: int) -> None:
    stream = records.Stream(device, ((50, 4), (10, 4)), 7, 7)
    assert stream.read(2, 4) == bytes([52, 53, 10, 11])
    assert b"".join(stream.pieces()) == bytes([50, 51, 52, 53, 10, 11, 12])


def test_a_file_is_not_read_behind_what_was_written_or_where_its_record_ends(device: int) -> None:
    with pytest.raises(NotUnderstood, match="too early"):
        records.Stream(device, ((0, 8),), 8, 4).read(2, 4)
    with pytest.raises(NotUnderstood, match="more pieces"):
        records.Stream(device, ((0, 4),), 8, 8).read(2, 4)


def _entry(name: str, number: int, flags: int = 0) -> bytes:
    key = bytes(64) + bytes([len(name), 0]) + name.encode("utf-16-le")
    size = -(-(16 + len(key)) // 8) * 8
    return struct.pack("<QHHHH", number | 3 << 48, size, len(key), flags, 0) + key.ljust(size - 16)


def _index(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IIII", 16, 16 + len(content), 16 + len(content), 0) + content


END = struct.pack("<QHHHH", 0, 16, 0, 2, 0)


def test_the_names_of_an_index_are_read() -> None:
    index = _index(_entry("hiberfil.sys", 70000), _entry("a", 5), END)
    assert list(records.index_names(index, 0)) == [("hiberfil.sys", 70000), ("a", 5)]


def test_an_index_that_contradicts_itself_is_refused() -> None:
    entry = _entry("a", 5)
    for wrong in (_index(entry), _index(entry, END)[:-1], _index(entry[:8] + bytes(8), END)):
        with pytest.raises(NotUnderstood):
            list(records.index_names(wrong, 0))
