# SPDX-License-Identifier: Apache-2.0
"""The clusters of a disk that matter: read in large pieces, compressed on all cores, in order."""

import random
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from oslo_log import log

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source
from ipa_snapshot.images.budget import Budget
from ipa_snapshot.images.compression import compressor
from ipa_snapshot.images.forward import Cluster, Geometry
from ipa_snapshot.images.reading import ClusterReader
from ipa_snapshot.images.sampling import Estimate, estimate
from ipa_snapshot.images.windows import Window, Windows

LOG = log.getLogger(__name__)

# An estimate reads one byte in so many: there are two, and what they read is read again.
_SAMPLED, _LEAST_SAMPLES = 200, 16
# The pieces that it is made of. Small ones compress up to 7 % worse than a cluster, those of the
# smallest cluster's size by less than 1 %; so they are small only where there would be few.
_SMALLEST_PIECE, _LARGEST_PIECE, _ENOUGH_PIECES = 16 * 1024, 256 * 1024, 512
_TIMED = 32  # windows
_AT_ONCE = 1024  # tasks that wait for a thread


class DiskClusters:
    """The clusters that the ``extents`` touch, as :class:`.Clusters` of the forward layout.

    Bytes of a cluster outside the extents are zeros, whatever is on the disk: free blocks hold
    what was deleted.

    :param first: the clusters of these extents come before the others: how well they compress,
        and whether they are zeros, cannot be foreseen.
    :raises: ReadFailed, from every method that reads.
    """

    def __init__(
        self, source: Source, geometry: Geometry, extents: Extents, first: Extents, budget: Budget
    ) -> None:
        self._geometry = geometry
        self._reader = ClusterReader(source, geometry.cluster_size, extents)
        self._windows = Windows(extents, first, geometry.cluster_size, budget.window)
        self._next = 0  # the window that is to be asked for next
        self._ahead: deque[Future[list[Cluster]]] = deque()
        self._ready: deque[Cluster] = deque()
        self._depth = budget.windows_ahead
        self._pool = ThreadPoolExecutor(budget.threads, thread_name_prefix="snapshot-compress")
        self._compress = compressor(geometry.compression)
        size = len(self._windows.clusters()) * geometry.cluster_size
        self._piece = _piece_size(size // _SAMPLED)
        self._samples = max(_LEAST_SAMPLES, size // _SAMPLED // self._piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def bytes_read(self) -> int:
        """How many bytes were read from the disk so far, samples included."""
        return self._reader.bytes_read

    def take(self) -> Cluster | None:
        """See :meth:`.Clusters.take`."""
        while not self._ready:
            self._ask()
            if not self._ahead:
                return None
            self._ready.extend(self._ahead.popleft().result())
        return self._ready.popleft()

    def is_ready(self) -> bool:
        """See :meth:`.Clusters.is_ready`."""
        self._ask()
        return bool(self._ready) or not self._ahead or self._ahead[0].done()

    def left(self) -> Sequence[int]:
        """See :meth:`.Clusters.left`."""
        left = array("Q", [cluster.index for cluster in self._ready])
        return left + self._windows.clusters(self._next - len(self._ahead))

    def estimate(self) -> Estimate:
        """See :meth:`.Clusters.estimate`; it reads and compresses samples."""
        left = self.left()
        found = estimate(left, self._measure, self._geometry.cluster_size, self._samples)
        LOG.info(
            "The other %(count)d clusters will have %(size)d bytes, +- %(error)d",
            {"count": len(left), "size": found.size, "error": found.error},
        )
        return found

    def _measure(self, indexes: Sequence[int]) -> Iterator[int]:
        return self._pool.map(self._compressed_size, indexes)

    def _compressed_size(self, index: int) -> int:
        pieces = self._geometry.cluster_size // self._piece
        # the same in every run
        number = random.Random(index).randrange(pieces)  # noqa: S311  # nosec B311
        content = self._reader.read_piece(index * pieces + number, self._piece)
        return 0 if content is None else len(self._compress(content)) * pieces

    def _ask(self) -> None:
        while len(self._ahead) < self._depth and self._next < len(self._windows):
            window = self._windows[self._next]
            self._ahead.append(self._pool.submit(self._make, window))
            self._next += 1

    def seconds_each(self) -> float:
        """Measure how long it takes to read and compress, as :meth:`take` does, by the cluster.

        By windows from everywhere: a disk is slower at its end, and where files are in pieces.
        """
        count = min(len(self._windows), _TIMED)
        chosen = [self._windows[n * len(self._windows) // count] for n in range(count)]
        began = time.monotonic()
        made = sum(map(len, self._pool.map(self._make, chosen)))
        return (time.monotonic() - began) / made

    def rest(self) -> Sequence[int]:
        """See :meth:`.Clusters.rest`; it reads them all, to see which are zeros."""
        left = self.left()
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._ready.clear()
        self._next = len(self._windows)
        found = array("Q")
        for first in range(0, len(left), _AT_ONCE):
            part = left[first : first + _AT_ONCE]
            used = self._pool.map(self._is_used, part)
            found.extend(index for index, is_used in zip(part, used, strict=True) if is_used)
        return found

    def _is_used(self, index: int) -> bool:
        (content,) = self._reader.read(Window(index, 1))
        return content is not None

    def plain(self, index: int) -> bytes:
        """See :meth:`.Clusters.plain`."""
        (content,) = self._reader.read(Window(index, 1))
        return b"" if content is None else bytes(content)

    def _make(self, window: Window) -> list[Cluster]:
        return [
            Cluster(window.first + number, b"" if content is None else self._compress(content))
            for number, content in enumerate(self._reader.read(window))
        ]


def _piece_size(sampled: int) -> int:
    """Return a power of two, so that there are about enough pieces in ``sampled`` bytes."""
    size = _SMALLEST_PIECE
    while size < _LARGEST_PIECE and size * _ENOUGH_PIECES < sampled:
        size *= 2
    return size
