# SPDX-License-Identifier: Apache-2.0
"""Read clusters of a disk, and of them what is in use, into memory that O_DIRECT takes."""

import ctypes
import dataclasses
import mmap
import threading
from collections.abc import Iterator, Sequence

from ipa_snapshot import errors
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source
from ipa_snapshot.images.windows import Window

_LIBC = ctypes.CDLL(None)
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)

# O_DIRECT wants offsets, lengths and memory aligned to the device's blocks, 4096 bytes at most.
_ALIGNMENT = 4096
# Reading over a small gap costs less than another call; what was in it is not used.
_SMALL_GAP = 16 * 1024


class ClusterReader:
    """Reads clusters of the disk into memory of the thread that asks.

    What is not in the ``extents`` is zeros, whatever is on the disk.
    """

    def __init__(self, source: Source, cluster_size: int, extents: Extents) -> None:
        self.bytes_read = 0
        self._source = source
        self._strict = dataclasses.replace(source, lost=None)
        self._size = cluster_size
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
            yield None if self._is_zero(memory, at, size) else view[at : at + size]

    def read_piece(self, number: int, size: int) -> memoryview | None:
        """Return a piece of the disk, which is no larger than a cluster, in the same way."""
        memory = self._fill(number * size, size)
        return None if self._is_zero(memory, 0, size) else memoryview(memory)[:size]

    def _is_zero(self, memory: mmap.mmap, at: int, size: int) -> bool:
        # By libc: Python 3.11 compares a memoryview byte for byte, and a copy for it costs memory.
        return bool(_LIBC.memcmp(_address(memory, at), self._zeros, size) == 0)

    def _fill(self, begin: int, length: int) -> mmap.mmap:
        memory = self._memory(length)
        used = list(self._extents.clipped(begin, length))
        position = 0
        for start, size in _joined(used):
            try:
                self._read_into(self._strict, memory, begin, (start, start + size), _ALIGNMENT)
                if self._source.lost is not None:
                    with memoryview(memory) as view:
                        self._source.lost.blank(view[start - begin :][:size], start)
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
            memory = self._own.memory = mmap.mmap(-1, length)
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
