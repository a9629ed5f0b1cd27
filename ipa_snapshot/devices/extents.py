# SPDX-License-Identifier: Apache-2.0
"""Ranges of bytes, sorted, apart from each other, and packed: millions of them are nothing."""

import bisect
import heapq
import itertools
from array import array
from collections.abc import Iterable, Iterator

_MOST = (1 << 63) - 1  # what Linux takes as an offset


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
        self._starts, self._ends = _merge(_checked(ranges))
        self.total = sum(self._ends) - sum(self._starts)

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


def _merge(ranges: Iterator[tuple[int, int]]) -> tuple["array[int]", "array[int]"]:
    """Pack ``(start, end)``; only what is not in order is sorted, and costs its memory."""
    starts, ends = array("Q"), array("Q")
    for start, end in ranges:
        if starts and start < starts[-1]:
            before = zip(starts, ends, strict=True)
            return _merge(iter(sorted(itertools.chain(before, [(start, end)], ranges))))
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends
