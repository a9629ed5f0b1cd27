# SPDX-License-Identifier: Apache-2.0
"""The clusters of a disk that matter: read in large pieces, compressed on all cores, in order."""

import ctypes
import dataclasses
import math
import mmap
import os
import random
import statistics
import threading
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source
from ipa_snapshot.images.compression import compressor
from ipa_snapshot.images.forward import Cluster, Geometry

LOG = log.getLogger(__name__)

_LIBC = ctypes.CDLL(None)
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)

_WINDOW = 4 * 1024 * 1024
# O_DIRECT wants offsets, lengths and memory aligned to the device's blocks, 4096 bytes at most.
_ALIGNMENT = 4096
# Reading over a small gap costs less than another call; what was in it is not used.
_SMALL_GAP = 16 * 1024
# What the estimate is made of: pieces of so many bytes, so many at once, and a few whole clusters.
_PIECE, _BATCH, _CALIBRATORS = 16 * 1024, 256, 8
_AT_ONCE = 1024  # tasks that wait for a thread
_MOST_THREADS = 8


def default_threads() -> int:
    """Return how many threads compress: one a core, but with more than 8 memory would grow."""
    return min(os.cpu_count() or 1, _MOST_THREADS)


@dataclass(frozen=True)
class Window:
    """``count`` consecutive clusters from number ``first`` on."""

    first: int
    count: int


class DiskClusters:
    """The clusters that the ``extents`` touch, as :class:`.Clusters` of the forward layout.

    Bytes of a cluster outside the extents are zeros, whatever is on the disk: free blocks hold
    what was deleted.

    :param first: the clusters of these extents come before the others: how well they compress,
        and whether they are zeros, cannot be foreseen.
    :raises: ReadFailed, from every method that reads.
    """

    def __init__(
        self, source: Source, geometry: Geometry, extents: Extents, first: Extents, threads: int
    ) -> None:
        self._geometry = geometry
        self._reader = _Reader(source, geometry, extents)
        self._windows = _windows(geometry, extents, first)
        self._next = 0  # the window that is to be asked for next
        self._ahead: deque[Future[list[Cluster]]] = deque()
        self._ready: deque[Cluster] = deque()
        self._depth = threads + 4  # a window that waits costs as much memory as a thread
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="snapshot-compress")
        self._compress = compressor(geometry.compression)

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
            while len(self._ahead) < self._depth and self._next < len(self._windows):
                window = self._windows[self._next]
                self._ahead.append(self._pool.submit(self._make, window))
                self._next += 1
            if not self._ahead:
                return None
            self._ready.extend(self._ahead.popleft().result())
        return self._ready.popleft()

    def left(self) -> Sequence[int]:
        """See :meth:`.Clusters.left`."""
        left = array("Q", [cluster.index for cluster in self._ready])
        for number in range(self._next - len(self._ahead), len(self._windows)):
            window = self._windows[number]
            left.extend(range(window.first, window.first + window.count))
        return left

    def estimate(self) -> int:
        """See :meth:`.Clusters.estimate`: by small pieces, until their mean is good to 2 %.

        They are taken evenly from everything that is left, since a disk is not the same
        everywhere; at most one in 2048 clusters beyond the first batch, since each costs a seek.
        """
        left = self.left()
        batch = min(max(len(left) // 8, 16), _BATCH)
        sizes: list[int] = []
        while True:
            chance = random.Random(len(sizes))  # noqa: S311 - the same in every run
            shift = chance.random()
            starts = [
                left[int((number + shift) * len(left) / batch)] * self._geometry.cluster_size
                + chance.randrange(0, self._geometry.cluster_size, _PIECE)
                for number in range(batch)
            ]
            sizes += self._pool.map(self._piece_size, starts)
            mean = statistics.fmean(sizes)
            error = statistics.stdev(sizes) / math.sqrt(len(sizes))
            if error <= 0.02 * mean or len(sizes) * 2048 > len(left):
                break
        gain = self._gain(left)
        LOG.info(
            "Estimate by %(count)d pieces: %(mean)d of %(size)d bytes, +- %(error)d; x %(gain).2f",
            {"count": len(sizes), "mean": mean, "size": _PIECE, "error": error, "gain": gain},
        )
        pieces = self._geometry.cluster_size // _PIECE
        return int(mean * gain * pieces * len(left))

    def _piece_size(self, start: int) -> int:
        piece = self._reader.read_range(start, _PIECE)
        return len(self._compress(piece)) if any(piece) else 0

    def _gain(self, left: Sequence[int]) -> float:
        """Return how much smaller whole clusters become than their pieces, by a few of them."""
        whole = pieces = 0
        count = min(max(len(left) // 128, 1), _CALIBRATORS)
        for number in range(count):
            index = left[number * len(left) // count]
            (content,) = self._reader.read(Window(index, 1))
            if content is not None:
                whole += len(self._compress(content))
                pieces += sum(
                    len(self._compress(piece))
                    for at in range(0, len(content), _PIECE)
                    if any(piece := bytes(content[at : at + _PIECE]))
                )
        return whole / pieces if pieces else 1.0

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


class _Reader:
    """Reads clusters of the disk into memory of the thread that asks."""

    def __init__(self, source: Source, geometry: Geometry, extents: Extents) -> None:
        self.bytes_read = 0
        self._source = source
        self._strict = dataclasses.replace(source, lost=None)
        self._size = geometry.cluster_size
        self._extents = extents
        self._zeros = bytes(self._size)
        self._lock = threading.Lock()
        self._own = threading.local()

    def read(self, window: Window) -> Iterator[memoryview | None]:
        """Yield the window's clusters, each whole, or None if it is all zeros.

        They are valid until this thread reads again.
        """
        size = self._size
        memory = self._fill(window.first * size, window.count * size)
        view = memoryview(memory)
        for at in range(0, window.count * size, size):
            yield None if self._is_zero(memory, at) else view[at : at + size]

    def _is_zero(self, memory: mmap.mmap, at: int) -> bool:
        # By libc: Python 3.11 compares a memoryview byte for byte, and a copy for it costs memory.
        return bool(_LIBC.memcmp(_address(memory, at), self._zeros, self._size) == 0)

    def read_range(self, begin: int, length: int) -> bytes:
        """Return a part of the disk; what is not in use, or behind its end, as zeros."""
        return self._fill(begin, length)[:length]

    def _fill(self, begin: int, length: int) -> mmap.mmap:
        memory = self._memory(length)
        used = list(self._extents.clipped(begin, length))
        position = 0
        for start, size in _joined(used):
            try:
                self._read_into(self._strict, memory, begin, (start, start + size), _ALIGNMENT)
            except errors.ReadFailed:
                # It may be a sector that is not in use, and was read only because it was near.
                self._read_exactly(memory, begin, Extents(used).clipped(start, size))
        for start, size in used:
            _clear(memory, position, start - begin)
            position = start - begin + size
        _clear(memory, position, length)
        return memory

    def _read_exactly(self, memory: mmap.mmap, begin: int, used: Extents) -> None:
        sector = self._source.logical_sector_size
        for start, size in used:
            self._read_into(self._source, memory, begin, (start, start + size), sector)

    def _read_into(
        self, source: Source, memory: mmap.mmap, begin: int, wanted: tuple[int, int], unit: int
    ) -> None:
        """Read the disk from byte to byte, to where it belongs in the window's memory."""
        start = wanted[0] // unit * unit
        end = min(-(-wanted[1] // unit) * unit, source.size)
        with memoryview(memory) as view:
            while start < end:
                count = source.read_into(view[start - begin : end - begin], start)
                start += count
                with self._lock:
                    self.bytes_read += count

    def _memory(self, length: int) -> mmap.mmap:
        memory: mmap.mmap | None = getattr(self._own, "memory", None)
        if memory is None or len(memory) < length:
            # aligned to pages, as O_DIRECT wants it
            memory = self._own.memory = mmap.mmap(-1, max(length, _WINDOW))
        return memory


def _joined(extents: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin = end = -1
    for start, size in extents:
        if begin >= 0 and start - end <= _SMALL_GAP:
            end = start + size
            continue
        if begin >= 0:
            yield begin, end - begin
        begin, end = start, start + size
    if begin >= 0:
        yield begin, end - begin


def _clear(memory: mmap.mmap, begin: int, end: int) -> None:
    if end > begin:
        ctypes.memset(_address(memory, begin), 0, end - begin)


def _address(memory: mmap.mmap, at: int) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory, at))


def _windows(geometry: Geometry, extents: Extents, first: Extents) -> "_Windows":
    windows = _Windows()
    size = geometry.cluster_size
    early = first.aligned(size, geometry.clusters * size)
    late = extents.aligned(size, geometry.clusters * size)
    windows.add(early, size)
    windows.add(late.without(early), size)
    return windows


class _Windows:
    """Windows of at most 4 MiB, kept in arrays: a full disk has hundreds of thousands."""

    def __init__(self) -> None:
        self._first = array("Q")
        self._count = array("I")

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, number: int) -> Window:
        return Window(self._first[number], self._count[number])

    def add(self, extents: Extents, cluster_size: int) -> None:
        most = max(1, _WINDOW // cluster_size)
        for start, length in extents:
            begin, end = start // cluster_size, (start + length) // cluster_size
            for first in range(begin, end, most):
                self._first.append(first)
                self._count.append(min(most, end - first))
