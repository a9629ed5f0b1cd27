# SPDX-License-Identifier: Apache-2.0
"""exFAT: a cluster is free where the allocation bitmap holds a zero, if the volume is clean.

The bitmap is read here: partclone.exfat 0.3.23 calls the last cluster free, or the last two, also
where a file lies there. The root directory names the bitmap, and has to be read to its end: to see
that there is one, and no kind of entry that a later revision may bring.

Layout: Microsoft's exFAT specification of 2019, revision 1.00, sections 4, 6 and 7.
"""

import os
import struct
from collections.abc import Iterable, Iterator

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import bitmaps
from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, from_free
from ipa_snapshot.devices.file_systems.exfat_boot import FIRST, Volume, read_boot_regions
from snapshot_core.process import MIB

_PIECE = 4 * MIB
_MOST_ROOT = 256 * MIB  # no directory may be larger
_MOST_UPCASE = 128 * 1024  # two bytes for each of 65536 characters
# A chain all over the disk takes time to follow, and no root directory in use is like that.
_MOST_RUNS = 8192
_ENTRY = 32  # bytes of an entry of a directory
_BITMAP, _UPCASE, _LABEL, _FILE = 0x81, 0x82, 0x83, 0x85
# Entries in use that are critical, and begin a set: whoever does not know one must not go on.
_UNKNOWN = frozenset(range(0x80, 0xA0)) - {_BITMAP, _UPCASE, _LABEL, _FILE}
_FIRST_ENTRIES = struct.pack("<II", 0xFFFFFFF8, 0xFFFFFFFF)  # of the file allocation table
_END_OF_CHAIN = 0xFFFFFFFF

Runs = list[tuple[int, int]]
"""``(first, length)`` in clusters, in a file's order."""


def map_exfat(view: View) -> FileSystemMap:
    """Return what an exFAT uses.

    :raises: NotUnderstood, OSError
    """
    fd = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _map(view, fd)
    finally:
        os.close(fd)


def _map(view: View, fd: int) -> FileSystemMap:
    volume = read_boot_regions(fd)
    table = Table(fd, volume)
    root = table.chain(volume.root, _MOST_ROOT // volume.cluster)
    entries = system_entries(_pieces(fd, volume, root))
    bitmap, size = _bitmap(table, volume, entries[_BITMAP])
    upcase = _upcase(table, volume, entries[_UPCASE])
    clusters = bitmaps.zeros(_pieces(fd, volume, bitmap, size), volume.clusters)
    free = ((volume.place(FIRST + first), length * volume.cluster) for first, length in clusters)
    found = from_free(free, view, volume.size, "exFAT: allocation bitmap", None)
    own = [(volume.place(first), length * volume.cluster)
           for first, length in (*root, *bitmap, *upcase)]  # fmt: skip
    if Extents(own).total != sum(length for _start, length in own):
        raise NotUnderstood("the volume's own files share clusters")
    if Extents(own).without(found.used):
        raise NotUnderstood("the allocation bitmap calls the volume's own files free")
    return found


class Table:
    """The file allocation table: for each cluster of a file, the next one.

    :raises: NotUnderstood if it does not begin as one does; OSError
    """

    def __init__(self, fd: int, volume: Volume) -> None:
        self._fd = fd
        self._volume = volume
        self._start, self._piece = 0, b""
        if self._read(0) + self._read(1) != _FIRST_ENTRIES:
            raise NotUnderstood("its table does not begin as a table")

    def chain(self, first: int, most: int) -> Runs:
        """Return the clusters of a file of at most ``most``.

        :raises: NotUnderstood if there are more, be it for a loop, or some outside; OSError
        """
        runs: Runs = []
        total, number = 0, first
        while number != _END_OF_CHAIN:
            total += 1
            if not FIRST <= number < FIRST + self._volume.clusters:
                raise NotUnderstood("a chain to the cluster %d, which is none" % number)
            if runs and sum(runs[-1]) == number:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((number, 1))
            if total > most or len(runs) > _MOST_RUNS:
                raise NotUnderstood("a chain of too many clusters or pieces, or without an end")
            number = int.from_bytes(self._read(number), "little")
        return runs

    def _read(self, number: int) -> bytes:
        """Return the entry of a cluster."""
        place = number * 4 - self._start
        if not 0 <= place < len(self._piece):
            self._start = number * 4 // 4096 * 4096
            self._piece = os.pread(self._fd, 4096, self._volume.table + self._start)
            place = number * 4 - self._start
        if place + 4 > len(self._piece):
            raise NotUnderstood("its table ends too early")
        return self._piece[place : place + 4]


def system_entries(root: Iterable[bytes]) -> dict[int, bytes]:
    """Return the entries of the allocation bitmap and of the up-case table, by their types.

    :param root: the root directory, in pieces.
    :raises: NotUnderstood if it has not one of each, or others that are not known.
    """
    found: dict[int, bytes] = {}
    for piece in root:
        types, end, _behind = piece[::_ENTRY].partition(b"\0")
        if strange := _UNKNOWN.intersection(types):
            raise NotUnderstood("unknown entries in its root directory (0x%x)" % min(strange))
        for kind in (_BITMAP, _UPCASE):
            place = types.find(kind)
            if place < 0:
                continue
            if kind in found or types.count(kind) > 1:
                raise NotUnderstood("several entries 0x%x in its root directory" % kind)
            found[kind] = piece[place * _ENTRY : (place + 1) * _ENTRY]
        if end:
            break
    if len(found) != 2:
        raise NotUnderstood("its root directory names no allocation bitmap or up-case table")
    return found


def _bitmap(table: Table, volume: Volume, entry: bytes) -> tuple[Runs, int]:
    """Return the clusters of the allocation bitmap, and its size in bytes."""
    flags = entry[1]
    first, size = struct.unpack_from("<IQ", entry, 20)
    if flags or size != -(-volume.clusters // 8):
        raise NotUnderstood(
            "an allocation bitmap of %d bytes for %d clusters (flags 0x%x)"
            % (size, volume.clusters, flags)
        )
    runs = _whole_chain(table, volume, first, size)
    # Linux 6.1 and exfat-fuse 1.3 read and write it behind its first cluster, whatever the chain.
    if len(runs) > 1:
        raise NotUnderstood("an allocation bitmap in several pieces")
    return runs, size


def _upcase(table: Table, volume: Volume, entry: bytes) -> Runs:
    first, size = struct.unpack_from("<IQ", entry, 20)
    if not 0 < size <= _MOST_UPCASE:
        raise NotUnderstood("an up-case table of %d bytes" % size)
    return _whole_chain(table, volume, first, size)


def _whole_chain(table: Table, volume: Volume, first: int, size: int) -> Runs:
    clusters = -(-size // volume.cluster)
    runs = table.chain(first, clusters)
    if sum(length for _first, length in runs) != clusters:
        raise NotUnderstood("a chain that is shorter than its file")
    return runs


def _pieces(fd: int, volume: Volume, runs: Runs, size: int | None = None) -> Iterator[bytes]:
    """Yield the content of clusters, or the first ``size`` bytes of it."""
    left = sum(length for _first, length in runs) * volume.cluster if size is None else size
    for first, length in runs:
        end = volume.place(first + length)
        for place in range(volume.place(first), end, _PIECE):
            wanted = min(_PIECE, end - place, left)
            piece = os.pread(fd, wanted, place)
            if len(piece) != wanted:
                raise NotUnderstood("the partition ends before its file system")
            yield piece
            left -= wanted
