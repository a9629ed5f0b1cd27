# SPDX-License-Identifier: Apache-2.0
"""Extents are compared with plain sets of bytes, for many drawn ranges."""

import itertools
import random
import sys
import time
from collections.abc import Iterator

import pytest

from ipa_snapshot.devices import extents as module
from ipa_snapshot.devices.extents import MOST_RANGES, Extents

SIZE = 60


def _bytes(extents: Extents) -> set[int]:
    return {byte for start, length in extents for byte in range(start, start + length)}


def _drawn(numbers: random.Random) -> list[tuple[int, int]]:
    return [
        (numbers.randrange(SIZE), numbers.randrange(6)) for _ in range(numbers.randrange(12))
    ]  # fmt: skip


@pytest.fixture(params=range(100))
def numbers(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.param)


def test_ranges_come_out_sorted_apart_and_complete(numbers: random.Random) -> None:
    ranges = _drawn(numbers)
    extents = Extents(ranges)
    expected = {byte for start, length in ranges for byte in range(start, start + length)}
    assert _bytes(extents) == expected
    assert (extents.total, extents.end) == (len(expected), max(expected, default=-1) + 1)
    found = list(extents)
    assert len(extents) == len(found)
    assert all(length > 0 for _start, length in found)
    assert all(a + b < c for (a, b), (c, _d) in itertools.pairwise(found))
    assert extents == Extents(found)
    assert hash(extents) == hash(Extents(found))


def test_operations_are_those_of_sets(numbers: random.Random) -> None:
    one, two, three = (Extents(_drawn(numbers)) for _ in range(3))
    start, length = numbers.randrange(SIZE), numbers.randrange(SIZE)
    assert _bytes(one.union(two, three)) == _bytes(one) | _bytes(two) | _bytes(three)
    assert _bytes(one.complement(SIZE)) == set(range(SIZE)) - _bytes(one)
    assert _bytes(one.shifted(7)) == {byte + 7 for byte in _bytes(one)}
    assert one.shifted(7).shifted(-7) == one
    assert _bytes(one.without(two)) == _bytes(one) - _bytes(two)
    assert _bytes(one.clipped(start, length)) == _bytes(one) & set(range(start, start + length))


@pytest.mark.parametrize("batch", [2, 5, 1000])
def test_too_many_ranges_become_fewer_and_never_less_is_covered(
    numbers: random.Random, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(module, "_BATCH", batch)
    monkeypatch.setattr(module, "_FIRST_LEAST", 2)
    ranges = [(numbers.randrange(300), numbers.randrange(6)) for _ in range(40)]
    if numbers.random() < 0.5:
        ranges.sort()
    exact = Extents(ranges)
    assert len(exact) > 8
    more, less = Extents.covering(ranges, 4), Extents.within(ranges, 4)
    assert _bytes(more) >= _bytes(exact) >= _bytes(less)
    assert len(more) <= 4
    assert len(less) <= 4
    assert Extents.covering(ranges, 1000) == exact


def test_a_map_is_made_coarser_at_its_shortest_gaps() -> None:
    few = [(at, 50_000) for at in range(0, 8 << 20, 1 << 20)]
    many = [(1 << 30 | at, 4096) for at in range(0, 600_000 * 8192, 8192)]
    found = Extents.covering([*few, *many])
    assert list(found)[: len(few)] == few
    assert len(found) <= MOST_RANGES
    less = Extents.within([*few, *many])
    assert list(less)[: len(few)] == few
    assert len(less) <= MOST_RANGES


def test_aligned_grows_to_whole_units_but_not_beyond_the_end(numbers: random.Random) -> None:
    one = Extents(_drawn(numbers)).clipped(0, SIZE)
    unit = numbers.randrange(1, 20)
    units = {byte // unit for byte in _bytes(one)}
    assert _bytes(one.aligned(unit, SIZE)) == {
        byte for number in units for byte in range(number * unit, min((number + 1) * unit, SIZE))
    }


def test_nothing_is_empty() -> None:
    assert list(Extents([(5, 0)])) == []
    assert not Extents()
    assert Extents().complement(9) == Extents([(0, 9)])
    assert Extents([(0, 9)]).complement(9) == Extents()
    assert Extents().complement(0) == Extents()
    assert (Extents().total, Extents().end) == (0, 0)


@pytest.mark.parametrize("wrong", [(-1, 2), (1, -2), (2**63, 1), (0, 2**64)])
def test_what_is_no_range_of_a_disk_is_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no range of a disk"):
        Extents([wrong])


def test_nothing_goes_below_zero() -> None:
    with pytest.raises(ValueError, match="no range of a disk"):
        Extents([(3, 1)]).shifted(-4)


def test_it_equals_only_its_like_and_shows_itself() -> None:
    extents = Extents((start, 1) for start in range(0, 12, 2))
    assert extents != 7
    assert repr(extents) == ("<Extents: 6 bytes in 6 ranges: (0, 1), (2, 1), (4, 1), (6, 1), ...>")


def test_millions_of_ranges_are_packed_and_quick() -> None:
    count = 1_000_000

    def ranges() -> Iterator[tuple[int, int]]:
        return ((start * 8192, 4096) for start in range(count))

    began = time.monotonic()
    extents = Extents(ranges())
    size = sum(sys.getsizeof(part) for part in (extents._starts, extents._ends))
    assert size < 20 * count
    assert len(extents.complement(count * 8192)) == count
    assert extents.aligned(8192, count * 8192).total == count * 8192
    assert time.monotonic() - began < 15
