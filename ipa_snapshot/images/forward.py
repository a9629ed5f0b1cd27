# SPDX-License-Identifier: Apache-2.0
"""A compressed qcow2 as one forward stream: valid from its first byte to its last, never seeking.

A qcow2 begins with a header that names the place of the L1 and refcount tables, and these name
everything else; but what lies where is known only after it is compressed. So the stream promises
places, and keeps the promises::

    header | clusters ... | first tables | clusters ... | second tables | clusters | plain clusters
                          ^ promised by the header      ^ promised by the first tables

* The *first tables* (L1, refcount table, the L2 tables that are complete) lie where the header
  says: well below the estimated size. How good the estimate was does not matter much: less
  than that is padded, and more is what the rest of the stream is for.
* The *second tables* (the other L2 tables, all refcount blocks) lie where the first say: near the
  end, by a second estimate, of what is left by then.
* What follows must be known when the second tables are sent: it is what was compressed ahead, into
  a bounded buffer. Only what does not fit that buffer is sent plain, at places that are known
  without compressing it.

An image whose clusters all fit the buffer needs no estimate: its tables come first.

Source: the qcow2 specification, docs/interop/qcow2.txt in QEMU. Nothing here does I/O.
"""

import math
import struct
import sys
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ipa_snapshot.images.sampling import Estimate

_COPIED = 1 << 63
_COMPRESSED = 1 << 62
_SECTOR = 512
_REFCOUNT_MOST = 0xFFFF
# L2 tables are sent whole, and a large disk that is little used may need nearly all of them.
_L2_BUDGET = 16 * 1024 * 1024
_SMALLEST_BITS, _LARGEST_BITS = 18, 21
# The share of an estimate at which tables are promised first: too low costs nothing there.
_FIRST_SHARE = 0.80
# How many standard errors the first place keeps below the estimate, and the end above it. At the
# end, too low costs much, since what does not fit is sent plain; too high costs padding.
_BELOW, _ABOVE = 2, 2
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x8x")
_HEADER_LENGTH = 112
_ZSTD_FEATURE = 1 << 3


@dataclass(frozen=True)
class Geometry:
    """The measures of an image; ``virtual_size`` in bytes.

    ``compression`` is ``zstd``, ``zlib`` or ``none``; it goes for all clusters but those that are
    sent plain at the end.
    """

    virtual_size: int
    cluster_bits: int
    compression: str

    @classmethod
    def for_disk(cls, virtual_size: int, compression: str) -> "Geometry":
        """Choose the cluster size so that the L2 tables of a full disk stay under 16 MiB.

        Of more than 4 TB they do not: 2 MiB is the largest cluster there is.
        """
        bits = _SMALLEST_BITS
        while bits < _LARGEST_BITS and (virtual_size >> bits) * 8 > _L2_BUDGET:
            bits += 1
        return cls(virtual_size, bits, compression)

    @property
    def cluster_size(self) -> int:
        """The size of a cluster in bytes."""
        return 1 << self.cluster_bits

    @property
    def clusters(self) -> int:
        """The number of clusters of the disk; the last may not be whole."""
        return -(-self.virtual_size >> self.cluster_bits)

    @property
    def l2_entries(self) -> int:
        """The number of clusters that one L2 table describes."""
        return self.cluster_size // 8

    @property
    def l1_entries(self) -> int:
        """The number of L2 tables of a full disk."""
        return -(-self.clusters // self.l2_entries)

    def header(self, l1_offset: int, refcount_table_offset: int) -> bytes:
        """Return the first cluster of the image."""
        zstd = self.compression == "zstd"
        return _HEADER.pack(
            b"QFI\xfb", 3, 0, 0, self.cluster_bits, self.virtual_size, 0,
            self.l1_entries, l1_offset, refcount_table_offset, 1, 0, 0,
            _ZSTD_FEATURE if zstd else 0, 0, 0, 4, _HEADER_LENGTH, zstd,
        ).ljust(self.cluster_size, b"\0")  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """A cluster of the disk, by its number.

    ``payload`` is the whole cluster compressed, zeros beyond the end of the disk included; it is
    empty for a cluster of zeros.
    """

    index: int
    payload: bytes


class Clusters(Protocol):
    """The clusters that matter, compressed one after the other, in any order of the disk."""

    def take(self) -> Cluster | None:
        """Return the next cluster, or None after the last."""

    def is_ready(self) -> bool:
        """Tell whether :meth:`take` would return at once."""

    def left(self) -> Sequence[int]:
        """Return the numbers of the clusters that were not taken yet."""

    def estimate(self) -> Estimate:
        """Estimate the size that those which are left, one at least, will have compressed."""

    def rest(self) -> Sequence[int]:
        """Take all that are left, plain; return the numbers of those that are not zero."""

    def plain(self, index: int) -> bytes:
        """Return a cluster of the :meth:`rest` as it is on the disk."""


def forward_stream(geometry: Geometry, clusters: Clusters, buffer_size: int) -> Iterator[bytes]:
    """Yield the bytes of the image, from the first to the last.

    :param buffer_size: how many bytes of compressed clusters are kept at most, save one cluster.
    """
    image = _Image(geometry)
    ahead = _Ahead(clusters, buffer_size)
    ahead.fill()
    first_at = geometry.cluster_size
    if clusters.left():
        guess = clusters.estimate()
        low = min(guess.size * _FIRST_SHARE, guess.size - _BELOW * guess.error)
        first_at += _aligned(ahead.size + max(0, int(low)), geometry.cluster_size)
    yield image.begin(first_at)
    yield from _place_up_to(first_at, image, ahead)

    ahead.fill()
    second_at = yield from _first_tables(image, ahead)
    yield from _place_up_to(second_at, image, ahead)

    ahead.fill()
    yield from _second_tables(image, ahead)


class _Ahead:
    """The clusters that are compressed already, and wait for their place."""

    def __init__(self, clusters: Clusters, most: int) -> None:
        self.clusters = clusters
        self.size = 0
        self.waiting: deque[Cluster] = deque()
        self.most = max(1, most)  # at least one, to see whether it fits

    def fill(self) -> None:
        """Take as much as may wait, however long that takes."""
        while self.size < self.most and self._take():
            pass

    def top_up(self) -> None:
        """Take what is ready: the disk may stall, and what waits here can leave meanwhile."""
        while self.size < self.most and self.clusters.is_ready() and self._take():
            pass

    def next(self) -> Cluster | None:
        """Return the next cluster, None after the last; wait for it if none waits here."""
        while not self.waiting and self._take():
            pass
        return self.waiting[0] if self.waiting else None

    def pop(self) -> Cluster:
        cluster = self.waiting.popleft()
        self.size -= len(cluster.payload)
        return cluster

    def _take(self) -> bool:
        cluster = self.clusters.take()
        if cluster is not None and cluster.payload:
            self.waiting.append(cluster)
            self.size += len(cluster.payload)
        return cluster is not None


def _place_up_to(end: int, image: "_Image", ahead: _Ahead) -> Iterator[bytes]:
    """Place clusters as long as they fit before ``end``, and pad up to it."""
    while (cluster := ahead.next()) is not None and image.end_of(cluster) <= end:
        yield from image.place(ahead.pop())
        ahead.top_up()
    yield from image.pad(end)


def _first_tables(image: "_Image", ahead: _Ahead) -> Generator[bytes, None, int]:
    """Emit the first tables; returns the place that they promise for the second."""
    geometry, left = image.geometry, ahead.clusters.left()
    entries = geometry.l2_entries
    pending = {cluster.index // entries for cluster in ahead.waiting}
    pending.update(index // entries for index in left)
    complete = sorted(set(image.l2) - pending)
    unfinished = sorted(pending)

    size = geometry.cluster_size
    l1_size = _aligned(geometry.l1_entries * 8, size)
    after = image.offset + l1_size + size + len(complete) * size
    second_at = after
    if left:
        guess = ahead.clusters.estimate()
        # What waits when they are due lies behind them: so much may the estimate be too low by,
        # and as much too high if they are promised in the middle.
        high = guess.size + max(_ABOVE * guess.error - ahead.most, -ahead.most / 2)
        second_at += _aligned(ahead.size + max(0, int(min(high, len(left) * size))), size)
    blocks = _refcount_blocks(_most_clusters(second_at, image, ahead, len(unfinished)), size)

    l1 = array("Q", bytes(l1_size))
    for number, table in enumerate(complete):
        l1[table] = _COPIED | (image.offset + l1_size + size + number * size)
    for number, table in enumerate(unfinished):
        l1[table] = _COPIED | (second_at + number * size)
    refcount_table = array("Q", bytes(size))
    for number in range(blocks):
        refcount_table[number] = second_at + (len(unfinished) + number) * size

    image.unfinished, image.refcount_blocks = unfinished, blocks
    yield from image.emit_table(l1)
    yield from image.emit_table(refcount_table)
    for table in complete:
        yield from image.emit_table(image.l2.pop(table))
    return second_at


def _most_clusters(second_at: int, image: "_Image", ahead: _Ahead, tables: int) -> int:
    """Return how many clusters the image has at most, without the refcount blocks."""
    size, left = image.geometry.cluster_size, len(ahead.clusters.left())
    crowded = (len(ahead.waiting) + left) // _REFCOUNT_MOST  # where the next begins further on
    return second_at // size + tables + -(-ahead.size // size) + left + crowded + 3


def _second_tables(image: "_Image", ahead: _Ahead) -> Iterator[bytes]:
    """Place all that is left, emit the second tables, and then what they name."""
    size = image.geometry.cluster_size
    tables_at, blocks = image.offset, image.refcount_blocks
    count = len(image.unfinished) + blocks
    image.refer(tables_at, count * size)
    image.offset += count * size

    held = [piece for cluster in ahead.waiting for piece in image.place(cluster)]
    held += image.pad(_aligned(image.offset, size))
    rest = ahead.clusters.rest()
    for index in rest:
        image.place_plain(index)

    for table in image.unfinished:
        yield _big_endian(image.l2.pop(table, array("Q", bytes(size))))
    yield from image.refcount_tables()
    yield from held
    for index in rest:
        yield ahead.clusters.plain(index).ljust(size, b"\0")


class _Image:
    """What was emitted so far, and the tables that describe it."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.offset = 0
        self.l2: dict[int, array[int]] = {}
        self.refcounts = array("H")
        self.unfinished: list[int] = []
        self.refcount_blocks = 0
        # 62 bits hold the offset, and above it the number of further sectors
        self._length_shift = 62 - (geometry.cluster_bits - 8)

    def begin(self, l1_offset: int) -> bytes:
        size = self.geometry.cluster_size
        l1_size = _aligned(self.geometry.l1_entries * 8, size)
        self.refer(0, size)
        self.offset = size
        return self.geometry.header(l1_offset, l1_offset + l1_size)

    def end_of(self, cluster: Cluster) -> int:
        return self._start_of(len(cluster.payload)) + len(cluster.payload)

    def _start_of(self, length: int) -> int:
        size = self.geometry.cluster_size
        if self.geometry.compression == "none":
            return _aligned(self.offset, size)
        last = (self.offset + length - 1) // size
        crowded = any(
            self.refcounts[number] == _REFCOUNT_MOST
            for number in range(self.offset // size, min(last + 1, len(self.refcounts)))
        )
        return _aligned(self.offset, size) if crowded else self.offset

    def place(self, cluster: Cluster) -> Iterator[bytes]:
        """Give the cluster its place here; yield its bytes, with padding before it if need be."""
        yield from self.pad(self._start_of(len(cluster.payload)))
        if self.geometry.compression == "none":
            self.place_plain(cluster.index)
            yield cluster.payload.ljust(self.geometry.cluster_size, b"\0")
            return
        length = len(cluster.payload)
        further = (self.offset + length - 1) // _SECTOR - self.offset // _SECTOR
        self._describe(cluster.index, _COMPRESSED | further << self._length_shift | self.offset)
        self.refer(self.offset, length)
        self.offset += length
        yield cluster.payload

    def place_plain(self, index: int) -> None:
        """Give a cluster that is not compressed its place here, at a cluster's border."""
        self._describe(index, _COPIED | self.offset)
        self.refer(self.offset, self.geometry.cluster_size)
        self.offset += self.geometry.cluster_size

    def pad(self, end: int) -> Iterator[bytes]:
        """Yield zeros up to ``end``; nothing refers to them."""
        size = self.geometry.cluster_size
        while self.offset < end:
            length = min(size, end - self.offset)
            self.offset += length
            yield bytes(length)

    def emit_table(self, table: "array[int]") -> Iterator[bytes]:
        """Yield a table that lies here."""
        length = len(table) * 8
        self.refer(self.offset, length)
        self.offset += length
        yield _big_endian(table)

    def refer(self, offset: int, length: int) -> None:
        """Count a reference to each cluster of the image that these bytes touch."""
        size = self.geometry.cluster_size
        first, last = offset // size, (offset + length - 1) // size
        if last >= len(self.refcounts):
            # in steps, since an array grows by copying
            self.refcounts.frombytes(bytes(2 * (last + 4096 - len(self.refcounts))))
        for number in range(first, last + 1):
            self.refcounts[number] += 1

    def refcount_tables(self) -> Iterator[bytes]:
        """Yield the refcount blocks, as many as were promised."""
        entries = self.geometry.cluster_size // 2
        promised = entries * self.refcount_blocks
        if any(self.refcounts[promised:]):
            raise AssertionError("more clusters than refcount blocks were promised for")
        del self.refcounts[promised:]
        self.refcounts.frombytes(bytes(2 * (promised - len(self.refcounts))))
        for first in range(0, promised, entries):
            yield _big_endian(self.refcounts[first : first + entries])

    def _describe(self, index: int, entry: int) -> None:
        entries = self.geometry.l2_entries
        table = self.l2.get(index // entries)
        if table is None:
            table = self.l2[index // entries] = array("Q", bytes(entries * 8))
        table[index % entries] = entry


def _refcount_blocks(clusters: int, cluster_size: int) -> int:
    """Return how many refcount blocks describe ``clusters`` and themselves."""
    blocks = 0
    while blocks * (cluster_size // 2) < clusters + blocks:
        blocks = math.ceil((clusters + blocks) / (cluster_size // 2))
    return blocks


def _aligned(offset: int, size: int) -> int:
    return -(-offset // size) * size


def _big_endian(table: "array[int]") -> bytes:
    if sys.byteorder == "little":
        table = array(table.typecode, table)
        table.byteswap()
    return table.tobytes()


def in_blocks(stream: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes in blocks of at most ``size``, joining small pieces, splitting large."""
    pieces: list[bytes] = []
    length = 0
    for piece in stream:
        for at in range(0, len(piece), size):
            part = piece if len(piece) <= size else piece[at : at + size]
            if length + len(part) > size:
                yield b"".join(pieces)
                pieces, length = [], 0
            pieces.append(part)
            length += len(part)
    if pieces:
        yield b"".join(pieces)
