# SPDX-License-Identifier: Apache-2.0
"""Which clusters of a disk are read together, and in which order."""

from array import array
from dataclasses import dataclass

from ipa_snapshot.devices.extents import Extents


@dataclass(frozen=True)
class Window:
    """``count`` consecutive clusters from number ``first`` on."""

    first: int
    count: int


class Windows:
    """The windows of the clusters that ``extents`` touch, in arrays: a full disk has very many.

    :param first: the clusters of these extents come before the others.
    :param most: the bytes of a window at most, but it has one cluster at least.
    """

    def __init__(self, extents: Extents, first: Extents, cluster_size: int, most: int) -> None:
        self._first = array("Q")
        self._count = array("I")
        self._most = max(1, most // cluster_size)
        end = -(-extents.end // cluster_size) * cluster_size
        early = first.aligned(cluster_size, end)
        late = extents.aligned(cluster_size, end)
        self._add(early, cluster_size)
        self._add(late.without(early), cluster_size)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, number: int) -> Window:
        return Window(self._first[number], self._count[number])

    def clusters(self, first: int = 0) -> "array[int]":
        """Return the numbers of the clusters from the window ``first`` on."""
        found = array("Q")
        for number in range(first, len(self)):
            window = self[number]
            found.extend(range(window.first, window.first + window.count))
        return found

    def _add(self, extents: Extents, cluster_size: int) -> None:
        for start, length in extents:
            begin, end = start // cluster_size, (start + length) // cluster_size
            for first in range(begin, end, self._most):
                self._first.append(first)
                self._count.append(min(self._most, end - first))
