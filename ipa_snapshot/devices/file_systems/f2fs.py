# SPDX-License-Identifier: Apache-2.0
"""F2FS on one device: the segment information table (SIT) of the last checkpoint, read here.

partclone 0.3.23 is not taken: its reader is of 2013, and knows neither the features nor the layouts
of checkpoints that came since. The table is only believed if it counts what the checkpoint counts.

Copied whole: what was not unmounted, or was mounted since and has written nodes that a mount would
roll forward. All is little-endian. Layout: Linux, include/linux/f2fs_fs.h and fs/f2fs.
"""

import os
import struct
from collections.abc import Iterator

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import bitmaps
from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, from_free
from ipa_snapshot.devices.file_systems.f2fs_checkpoint import (
    BITMAPS,
    BLOCK,
    COMPACT,
    LARGE_NAT,
    SEGMENT,
    Checkpoint,
    Layout,
    read_last_checkpoint,
    read_layout,
)

_PER_SIT_BLOCK, _ENTRY, _MAP = 55, 74, 64
_JOURNAL = 507  # bytes, within summaries
_SUMMARIES = 3584  # bytes before the journal, where summaries are not compact
_MOST_JOURNAL = 6
_LAST_DATA, _LAST_NODE = 2, 5  # types of segments


def map_f2fs(view: View) -> FileSystemMap:
    """Return what an F2FS uses.

    :raises: NotUnderstood, OSError
    """
    fd = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _map(view, fd)
    except struct.error as exc:
        raise NotUnderstood("a block that ends too early") from exc
    finally:
        os.close(fd)


def _map(view: View, fd: int) -> FileSystemMap:
    layout = read_layout(fd)
    checkpoint = read_last_checkpoint(fd, layout)
    next_node = _check_nothing_follows(fd, layout, checkpoint)
    table = Table(fd, layout, checkpoint)
    blocks = bitmaps.zeros(table.bitmap(), layout.main_segments * SEGMENT)
    free = (((layout.main + first) * BLOCK, length * BLOCK) for first, length in blocks)
    end = (layout.main + layout.main_segments * SEGMENT) * BLOCK
    found = from_free(free, view, end, "F2FS: segment information table", "clean")
    # Recovery looks there: what the disk had to which the image goes must not be taken for a node.
    used = found.used.union(Extents([(next_node * BLOCK, BLOCK)]))
    table.check_counts()
    return FileSystemMap(used, found.size, found.known_by, found.journal)


def _check_nothing_follows(fd: int, layout: Layout, checkpoint: Checkpoint) -> int:
    """Return the block where a mount looks for nodes that were fsync'ed after the checkpoint.

    They follow one another from the next free block of the log of warm nodes (fs/f2fs/recovery.c).
    An unmount's flag stays until the next checkpoint, and so does not say that there are none.
    """
    segment, offset = checkpoint.number(40), checkpoint.number(70, "<H")
    if segment >= layout.main_segments or offset >= SEGMENT:
        raise NotUnderstood("a checkpoint that contradicts itself")
    block = layout.main + segment * SEGMENT + offset
    (version,) = struct.unpack_from("<Q", os.pread(fd, BLOCK, block * BLOCK), 4084)
    if version & 0xFFFFFFFF == checkpoint.version & 0xFFFFFFFF:  # above is a checksum, or is not
        raise NotUnderstood("it was not unmounted: it has nodes to roll forward")
    return block


class Table:
    """The segment information table: a bitmap of each segment's blocks that are valid."""

    def __init__(self, fd: int, layout: Layout, checkpoint: Checkpoint) -> None:
        """Read what the checkpoint says of it.

        :raises: NotUnderstood, OSError
        """
        self._fd, self._layout, self._checkpoint = fd, layout, checkpoint
        self._blocks = layout.sit_segments // 2 * SEGMENT
        self._second = bitmaps.lowest_first(self._versions())
        self._journal = self._read_journal()
        self._nodes = self._all = 0
        if layout.main_segments > self._blocks * _PER_SIT_BLOCK:
            raise NotUnderstood("more segments than its table has")

    def bitmap(self) -> Iterator[bytes]:
        """Yield the bitmap of the main area, lowest bits first, and count.

        :raises: NotUnderstood, OSError
        """
        for first in range(0, self._layout.main_segments, _PER_SIT_BLOCK):
            block = self._read(first // _PER_SIT_BLOCK)
            count = min(_PER_SIT_BLOCK, self._layout.main_segments - first)
            maps = []
            for index in range(count):
                at = index * _ENTRY
                maps.append(self._valid(self._journal.get(first + index, block[at : at + _ENTRY])))
            yield bitmaps.lowest_first(b"".join(maps))

    def check_counts(self) -> None:
        """See that the checkpoint counts as much. Of data it also counts blocks without a place.

        :raises: NotUnderstood
        """
        valid, nodes = self._checkpoint.number(16, "<Q"), self._checkpoint.number(144)
        if self._nodes != nodes or self._all > valid:
            raise NotUnderstood(
                "its table has %d blocks, %d of them nodes, but its checkpoint counts %d and %d"
                % (self._all, self._nodes, valid, nodes)
            )

    def _valid(self, entry: bytes) -> bytes:
        (both,) = struct.unpack_from("<H", entry)
        count, kind, valid = both & 0x3FF, both >> 10, entry[2 : 2 + _MAP]
        if int.from_bytes(valid, "little").bit_count() != count or kind > _LAST_NODE:
            raise NotUnderstood("a segment of type %d that does not have %d blocks" % (kind, count))
        self._all += count
        self._nodes += count if kind > _LAST_DATA else 0
        return valid

    def _read(self, number: int) -> bytes:
        # each block has two places, and the checkpoint tells which is current
        place = number + (self._blocks if self._second[number // 8] >> number % 8 & 1 else 0)
        return os.pread(self._fd, BLOCK, (self._layout.sit + place) * BLOCK)

    def _versions(self) -> bytes:
        checkpoint, start = self._checkpoint, BITMAPS
        size, nat_size, flags = (
            checkpoint.number(156),
            checkpoint.number(160),
            checkpoint.number(132),
        )
        if flags & LARGE_NAT:
            start += 4 + nat_size
        elif self._layout.payload:
            start = BLOCK
        found = checkpoint.content[start : start + size]
        if len(found) != size or size * 8 != self._blocks:
            raise NotUnderstood("a bitmap of %d bytes for a table of %d" % (size, self._blocks))
        return found

    def _read_journal(self) -> dict[int, bytes]:
        """Return the entries that are newer than the table's, by segment."""
        checkpoint = self._checkpoint
        if checkpoint.number(132) & COMPACT:
            block, place = checkpoint.number(140), _JOURNAL
        else:
            block, place = checkpoint.blocks - 5, _SUMMARIES  # the third of six before the last
        if not self._layout.payload < block < checkpoint.blocks:
            raise NotUnderstood("a checkpoint without summaries")
        content = os.pread(self._fd, BLOCK, (checkpoint.start + block) * BLOCK)
        (count,) = struct.unpack_from("<H", content, place)
        if count > _MOST_JOURNAL:
            raise NotUnderstood("a journal of %d segments" % count)
        entries = {}
        for at in range(place + 2, place + 2 + count * (4 + _ENTRY), 4 + _ENTRY):
            (segment,) = struct.unpack_from("<I", content, at)
            if segment >= self._layout.main_segments:
                raise NotUnderstood("a journal of segments that it has not")
            entries[segment] = content[at + 4 : at + 4 + _ENTRY]
        return entries
