# SPDX-License-Identifier: Apache-2.0
"""What is read around bad sectors, with a disk of which the test says which sectors are bad."""

import errno
import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_snapshot.devices import sectors
from ipa_snapshot.devices.sectors import LostSectors, TooManyLost, read_into

SECTOR = 512
SECTORS = 64
CONTENT = bytes(range(1, 65)) * SECTOR


class BadDisk:
    """Answers preadv(2) as a disk does: a read that touches a bad sector fails as a whole."""

    def __init__(self, bad: set[int], error: int = errno.EIO) -> None:
        self.bad, self.error, self.reads = bad, error, 0

    def preadv(self, _fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self.reads += 1
        (view,) = buffers
        end = min(offset + len(view), len(CONTENT))
        if any(number in self.bad for number in range(offset // SECTOR, -(-end // SECTOR))):
            raise OSError(self.error, os.strerror(self.error))
        view[: end - offset] = CONTENT[offset:end]
        return end - offset


def read(
    disk: BadDisk, patch: pytest.MonkeyPatch, lost: LostSectors | None, sector: int = SECTOR
) -> bytes:
    patch.setattr(sectors.os, "preadv", disk.preadv)
    content, offset = bytearray(len(CONTENT)), 0
    with memoryview(content) as view:
        while offset < len(content):
            count = read_into(view[offset:], offset, (0,), sector, lost)
            assert count > 0
            offset += count
    return bytes(content)


@given(bad=st.sets(st.integers(0, SECTORS - 1), max_size=12), sector=st.sampled_from((512, 4096)))
def test_what_is_lost_is_zeros_and_noted_and_all_else_is_read(bad: set[int], sector: int) -> None:
    lost, per = LostSectors(), sector // SECTOR
    with pytest.MonkeyPatch.context() as patch:
        found = read(BadDisk(bad), patch, lost, sector)
    around = {number // per for number in bad}
    expected = bytearray(CONTENT)
    for number in around:
        expected[number * sector : (number + 1) * sector] = bytes(sector)
    assert found == bytes(expected)
    assert lost.extents().total == len(around) * sector


@given(bad=st.sets(st.integers(0, SECTORS - 1), min_size=1))
def test_without_leave_to_go_on_the_first_bad_sector_ends_it(bad: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sectors.os, "preadv", BadDisk(bad).preadv)
        content, offset = memoryview(bytearray(len(CONTENT))), 0
        with pytest.raises(OSError, match="Input/output error"):
            while offset < len(content):
                offset += read_into(content[offset:], offset, (0,), SECTOR, None)
    assert offset == min(bad) * SECTOR


def test_one_bad_sector_costs_few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = BadDisk({37})
    read(disk, monkeypatch, LostSectors())
    assert disk.reads <= 2 * SECTORS.bit_length()


def test_a_sector_is_lost_once_however_often_it_is_read() -> None:
    lost = LostSectors()
    for _ in range(200):
        lost.add(8 << 20, 1 << 20)
    assert list(lost.extents()) == [(8 << 20, 1 << 20)]


def test_a_sector_that_was_lost_stays_lost_when_it_can_be_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost, expected = LostSectors(), bytearray(CONTENT)
    for number in (3, 40, 41, 63):
        expected[number * SECTOR : (number + 1) * SECTOR] = bytes(SECTOR)
    for bad in ({3, 40, 41}, {63}, set[int]()):
        found = read(BadDisk(bad), monkeypatch, lost)
    assert found == bytes(expected), "what is told to be lost is what the last read gave"
    assert list(lost.extents()) == [
        (3 * SECTOR, SECTOR), (40 * SECTOR, 2 * SECTOR), (63 * SECTOR, SECTOR),
    ]  # fmt: skip


@pytest.mark.parametrize("error", [errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO])
def test_the_kernels_other_words_for_bad_sectors_are_known(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    lost = LostSectors()
    read(BadDisk({3}, error), monkeypatch, lost)
    assert list(lost.extents()) == [(3 * SECTOR, SECTOR)]


@pytest.mark.parametrize("error", [errno.ENODEV, errno.ENXIO, errno.ENOLINK, errno.ETIMEDOUT])
def test_a_disk_that_is_gone_is_not_taken_for_zeros(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    with pytest.raises(OSError, match=r"\[Errno %d\]" % error):
        read(BadDisk({3}, error), monkeypatch, LostSectors())


def test_a_disk_that_fails_as_a_whole_is_not_taken_for_zeros() -> None:
    lost = LostSectors()
    with pytest.raises(TooManyLost, match="more than 64 MiB"):
        for number in range(1 << 20):
            lost.add(number * 4096, 4096)
    assert lost.extents().total <= (64 << 20) + 4096


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 4096), (1024, 4096), (0, 1024), (700, 1300), (1536, 2048), (0, 512)]
)
def test_what_was_lost_is_blank_wherever_the_next_read_begins(begin: int, end: int) -> None:
    lost, expected = LostSectors(), bytearray(CONTENT)
    for start, length in ((512, 512), (1024, 2048)):
        lost.add(start, length)
        expected[start : start + length] = bytes(length)
    found = bytearray(CONTENT[begin:end])
    lost.blank(memoryview(found), begin)
    assert found == expected[begin:end]
