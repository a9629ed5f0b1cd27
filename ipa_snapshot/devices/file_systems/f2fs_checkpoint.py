# SPDX-License-Identifier: Apache-2.0
"""What the superblock of an F2FS and its last checkpoint say, if nothing is wrong with them.

All is little-endian. Layout: Linux, include/linux/f2fs_fs.h and fs/f2fs/checkpoint.c.
"""

import os
import struct
import zlib
from dataclasses import dataclass

from ipa_snapshot.devices.file_systems.base import NotUnderstood, unknown_bits

BLOCK = 4096
SEGMENT = 512  # blocks
BITMAPS = 192  # where in a checkpoint
COMPACT, LARGE_NAT = 0x4, 0x400  # flags: summaries in fewer blocks, bitmaps in another order
_MAGIC = 0xF2F52010
_SUPERBLOCK = 1024, 3072  # where in each of the first two blocks, and its size
_CHECKSUM = 0x800
# encrypt, atomic_write, extra_attr ... casefold, compression. Not here: blkzoned 0x2, ro 0x4000
# (it has other logs), device_alias 0x8000, packed_ssa 0x10000 and later ones.
_FEATURES = 0x3FFF & ~0x2
_UNMOUNTED = 0x1
# and crc_recovery, nat_bits, trimmed, nocrc_recovery. Not here: orphans 0x2, error 0x8, fsck 0x10,
# fastboot 0x20, quota_need_fsck 0x800, disabled 0x1000 and 0x2000, resizefs 0x4000.
_FLAGS = _UNMOUNTED | COMPACT | 0x40 | 0x80 | 0x100 | 0x200 | LARGE_NAT


@dataclass(frozen=True)
class Layout:
    """Where its areas begin, in blocks from its first, and how many segments they have."""

    checkpoints: int
    payload: int
    sit: int
    sit_segments: int
    main: int
    main_segments: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's first blocks; ``start`` is its place, ``blocks`` its length, in blocks."""

    content: bytes
    start: int
    blocks: int

    def number(self, place: int, form: str = "<I") -> int:
        """Return a number, by default one of 32 bits."""
        return int(struct.unpack_from(form, self.content, place)[0])

    @property
    def version(self) -> int:
        """What counts the checkpoints."""
        return self.number(0, "<Q")


def _checksum(content: bytes, *more: bytes) -> int:
    value = _MAGIC ^ 0xFFFFFFFF
    for part in (content, *more):
        value = zlib.crc32(part, value)
    return value ^ 0xFFFFFFFF


def read_superblocks(first: bytes, second: bytes) -> Layout:
    """Return what two equal superblocks say.

    :raises: NotUnderstood
    """
    if first != second:
        raise NotUnderstood("its superblocks differ")
    magic, *sizes = struct.unpack_from("<IxxxxIIII", first)
    if magic != _MAGIC or sizes[2:] != [12, 9]:
        raise NotUnderstood("no superblock, or one with other sizes of blocks and segments")
    (features,) = struct.unpack_from("<I", first, 2180)
    unknown_bits("feature", features, _FEATURES)
    if features & _CHECKSUM and (
        struct.unpack_from("<I", first, 32)[0] != 3068
        or _checksum(first[:3068]) != struct.unpack_from("<I", first, 3068)[0]
    ):
        raise NotUnderstood("the superblock's checksum is wrong")
    if any(first[2201:2745]):
        raise NotUnderstood("it has several devices")
    if any(first[2762:2810]):
        raise NotUnderstood("it had errors")
    return _layout(first)


def _layout(superblock: bytes) -> Layout:
    (blocks,) = struct.unpack_from("<Q", superblock, 36)
    _total, *counts = struct.unpack_from("<6I", superblock, 48)
    first, *starts, main = struct.unpack_from("<6I", superblock, 72)
    (payload,) = struct.unpack_from("<I", superblock, 1664)
    expected = first
    for start, count in zip([*starts, main], [0, *counts[:-1]], strict=True):
        expected += count * SEGMENT
        if start != expected:
            raise NotUnderstood("its areas do not follow each other")
    if main + counts[-1] * SEGMENT > blocks or payload > SEGMENT or not all(counts):
        raise NotUnderstood("a superblock that contradicts itself")
    return Layout(starts[0], payload, starts[1], counts[1], main, counts[-1])


def read_layout(fd: int) -> Layout:
    """Return what both superblocks say.

    :raises: NotUnderstood, struct.error, OSError
    """
    start, size = _SUPERBLOCK
    return read_superblocks(*(os.pread(fd, size, block + start) for block in (0, BLOCK)))


def read_last_checkpoint(fd: int, layout: Layout) -> Checkpoint:
    """Return the newer of the two checkpoints, if both are whole and it is an unmount's.

    :raises: NotUnderstood, struct.error, OSError
    """
    packs = [
        _read_checkpoint(fd, layout, layout.checkpoints),
        _read_checkpoint(fd, layout, layout.checkpoints + SEGMENT),
    ]
    last = max(packs, key=lambda pack: pack.version)
    check_flags(last.number(132))
    return last


def _read_checkpoint(fd: int, layout: Layout, start: int) -> Checkpoint:
    content = os.pread(fd, (1 + layout.payload) * BLOCK, start * BLOCK)
    (blocks,) = struct.unpack_from("<I", content, 136)
    if not layout.payload + 2 <= blocks <= SEGMENT:
        raise NotUnderstood("a checkpoint of %d blocks" % blocks)
    last = os.pread(fd, BLOCK, (start + blocks - 1) * BLOCK)
    for block in (content[:BLOCK], last):
        _check_checkpoint(block)
    if content[:8] != last[:8]:
        raise NotUnderstood("a checkpoint that was not written to its end")
    return Checkpoint(content, start, blocks)


def _check_checkpoint(block: bytes) -> None:
    flags, place = struct.unpack_from("<I", block, 132)[0], struct.unpack_from("<I", block, 164)[0]
    # at its end, or, before bitmaps of another order, at their beginning
    if place != (BITMAPS if flags & LARGE_NAT else BLOCK - 4):
        raise NotUnderstood("a checkpoint with its checksum at %d" % place)
    if _checksum(block[:place], block[place + 4 :]) != struct.unpack_from("<I", block, place)[0]:
        raise NotUnderstood("a checkpoint's checksum is wrong")


def check_flags(flags: int) -> None:
    """Refuse a checkpoint that is not an unmount's, or has orphans, errors, unknown flags.

    :raises: NotUnderstood
    """
    if not flags & _UNMOUNTED or flags & ~_FLAGS:
        raise NotUnderstood("it was not unmounted, or had errors (flags 0x%x)" % flags)
