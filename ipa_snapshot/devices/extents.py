# SPDX-License-Identifier: Apache-2.0
"""Ranges of bytes, sorted, apart from each other, and packed: millions of them are nothing.

Where even that is too much, because a disk may free every second block, the map of a file system is
made coarser: see :meth:`Extents.covering` and :meth:`Extents.within`.
"""

import bisect
import heapq
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator

_MOST = (1 << 63) - 1  # what Linux takes as an offset
# A set takes 8 MiB then, and there are several of each file system's, four of which at once.
MOST_RANGES = 1 << 19
_FIRST_LEAST = 8192  # shorter ones, of a usual block, go first
_BATCH = 1 << 15  # ranges that are sorted at once

_Packed = tuple["array[int]", "array[int]"]  # starts, ends


class Extents:
    """An immutable set of bytes, kept as its ranges; all numbers are bytes.

    Iterating yields ``(start, length)`` in order; two ranges never touch. It takes 16 bytes a
    range, and every operation is linear.
    """

    __slots__ = ("_ends", "_starts", "total")

    total: int

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Take ``(start, length)`` in any order; they may overlap, touch or be empty.

        :raises: ValueError for a negative start or length, or one that is no disk's.
        """
        self._take(_pack(_checked(ranges)))

    def _take(self, packed: _Packed) -> None:
        self._starts, self._ends = packed
        self.total = sum(self._ends) - sum(self._starts)

    @classmethod
    def covering(cls, ranges: Iterable[tuple[int, int]], most: int = MOST_RANGES) -> "Extents":
        """Take all of the ranges, and short gaps between them where there are more than ``most``.

        :raises: ValueError
        """
        extents = cls()
        extents._take(_pack(_checked(ranges), _close_gaps, most))
        return extents

    @classmethod
    def within(cls, ranges: Iterable[tuple[int, int]], most: int = MOST_RANGES) -> "Extents":
        """Take the ranges, but not short ones where there are more than ``most``.

        :raises: ValueError
        """
        extents = cls()
        extents._take(_pack(_checked(ranges), _drop_short, most))
        return extents

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield start, end - start

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Extents):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    def __hash__(self) -> int:
        return hash((self._starts.tobytes(), self._ends.tobytes()))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, itertools.islice(self, 4)))
        return "<Extents: %d bytes in %d ranges: %s%s>" % (
            self.total, len(self), shown, ", ..." if len(self) > 4 else "",
        )  # fmt: skip

    @property
    def end(self) -> int:
        """Where the last range ends, 0 if there is none."""
        return self._ends[-1] if self._ends else 0

    def union(self, *others: "Extents") -> "Extents":
        """Return what is in this or in any of the ``others``."""
        return Extents(heapq.merge(self, *others))

    def complement(self, size: int) -> "Extents":
        """Return what of the first ``size`` bytes is not in this."""
        return Extents(self._gaps(size))

    def aligned(self, granularity: int, size: int) -> "Extents":
        """Grow every range to whole units of ``granularity``, but not beyond ``size``."""
        return Extents(
            (first := start // granularity * granularity,
             max(0, min(-(-(start + length) // granularity) * granularity, size) - first))
            for start, length in self
        )  # fmt: skip

    def shifted(self, offset: int) -> "Extents":
        """Return this as seen from ``offset`` bytes before.

        :raises: ValueError if a negative ``offset`` takes a range below zero.
        """
        return Extents((start + offset, length) for start, length in self)

    def clipped(self, start: int, length: int) -> "Extents":
        """Return what of this lies in the given range, in time that depends on that alone."""
        stop = start + length
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_left(self._starts, stop)
        return Extents(
            (max(begin, start), min(end, stop) - max(begin, start))
            for begin, end in zip(self._starts[first:last], self._ends[first:last], strict=True)
        )

    def without(self, other: "Extents") -> "Extents":
        """Return what of this is not in ``other``."""
        return Extents(self._common(other.complement(self.end)))

    def _common(self, other: "Extents") -> Iterator[tuple[int, int]]:
        number = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            while number < len(other) and other._ends[number] <= start:
                number += 1
            within = number
            while within < len(other) and other._starts[within] < end:
                first, last = max(start, other._starts[within]), min(end, other._ends[within])
                yield first, last - first
                within += 1
            number = max(number, within - 1)

    def _gaps(self, size: int) -> Iterator[tuple[int, int]]:
        position = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if start >= size:
                break
            yield position, start - position
            position = end
        if position < size:
            yield position, size - position


def _checked(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, length in ranges:
        if start < 0 or length < 0 or start + length > _MOST:
            raise ValueError("no range of a disk: %d bytes at %d" % (length, start))
        if length:
            yield start, start + length


def _pack(
    ranges: Iterator[tuple[int, int]],
    thin: Callable[[_Packed, int], _Packed] | None = None,
    most: int = 0,
) -> _Packed:
    """Pack ``(start, end)`` in any order.

    :param thin: makes fewer of more than ``most``, at the expense of what is shorter than a length.
    """
    runs: list[_Packed] = []
    least = _FIRST_LEAST
    while batch := sorted(itertools.islice(ranges, _BATCH)):
        if not runs or (runs[-1][0] and batch[0][0] < runs[-1][0][-1]):
            runs.append((array("Q"), array("Q")))
        _append(runs[-1], batch)
        while thin and _count(runs) > most and least < _MOST:
            runs = [thin(run, least) for run in runs]
            if _count(runs) > most * 3 // 4:
                least *= 2
    if len(runs) > 1:
        return _pack(heapq.merge(*(zip(*run, strict=True) for run in runs)), thin, most)
    return runs[0] if runs else (array("Q"), array("Q"))


def _count(runs: list[_Packed]) -> int:
    return sum(len(starts) for starts, _ends in runs)


def _append(run: _Packed, ranges: Iterable[tuple[int, int]]) -> None:
    starts, ends = run
    for start, end in ranges:
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)


def _close_gaps(run: _Packed, least: int) -> _Packed:
    starts, ends = array("Q"), array("Q")
    for start, end in zip(*run, strict=True):
        if ends and start - ends[-1] < least:
            ends[-1] = end
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends


def _drop_short(run: _Packed, least: int) -> _Packed:
    starts, ends = array("Q"), array("Q")
    for start, end in zip(*run, strict=True):
        if end - start >= least:
            starts.append(start)
            ends.append(end)
    return starts, ends
