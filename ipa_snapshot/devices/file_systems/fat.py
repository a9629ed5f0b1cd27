# SPDX-License-Identifier: Apache-2.0
"""FAT12, FAT16 and FAT32: a cluster is free where the file allocation table holds zero.

The table is read here: partclone.vfat 0.3.23 calls clusters of FAT12 free that are not (fsck.fat
finds the copy damaged), and sleeps for two seconds. A dirty volume is copied whole: its directories
may name clusters that its table still calls free. Layout: Microsoft's FAT specification, 2005.
"""

import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, from_free

_MOST = 64 * 1024 * 1024  # bytes of a table
_DIRTY = 0x1


@dataclass(frozen=True)
class Volume:
    """What the boot sector says; sizes and places in bytes.

    ``bits`` is 12, 16 or 32; ``clusters`` is their number, the first of them having number 2.
    """

    bits: int
    size: int
    table: int
    table_size: int
    data: int
    cluster: int
    clusters: int
    media: int


def map_vfat(view: View) -> FileSystemMap:
    """Return what a FAT12, FAT16 or FAT32 uses.

    :raises: NotUnderstood, OSError
    """
    fd = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        volume = read_boot_sector(os.pread(fd, 512, 0))
        table = os.pread(fd, volume.table_size, volume.table)
    finally:
        os.close(fd)
    if len(table) != volume.table_size:
        raise NotUnderstood("its table ends too early")
    entries = read_table(volume, table)
    known_by = "FAT%d: free clusters" % volume.bits
    return from_free(_free(volume, entries), view, volume.size, known_by, None)


def read_boot_sector(boot: bytes) -> Volume:
    """Return what a boot sector says.

    :raises: NotUnderstood
    """
    if len(boot) != 512 or boot[510:] != b"\x55\xaa":
        raise NotUnderstood("no boot sector")
    sector, per_cluster, reserved, tables, roots, total16, media, per_table16 = struct.unpack_from(
        "<HBHBHHBH", boot, 11
    )
    total32, per_table32, flags, version = struct.unpack_from("<IIHH", boot, 32)
    if sector not in (512, 1024, 2048, 4096) or per_cluster not in (1 << n for n in range(8)):
        raise NotUnderstood("sectors of %d bytes, %d to a cluster" % (sector, per_cluster))
    is_fat32 = per_table16 == 0
    per_table, total = (per_table32 if is_fat32 else per_table16), (total16 or total32)
    data = reserved + tables * per_table + -(-roots * 32 // sector)
    clusters = (total - data) // per_cluster
    bits = 32 if is_fat32 else 12 if clusters < 4085 else 16
    if not (reserved and tables in (1, 2) and clusters > 0 and per_table * sector <= _MOST):
        raise NotUnderstood("a boot sector that contradicts itself")
    if not is_fat32 and 4078 <= clusters <= 4094:
        raise NotUnderstood("%d clusters: FAT12 to some, FAT16 to others" % clusters)
    if is_fat32 and (version or flags & 0x80 or roots):
        raise NotUnderstood("FAT32 of version 0x%x with flags 0x%x" % (version, flags))
    if (clusters + 2) * bits > per_table * sector * 8:
        raise NotUnderstood("its table is too small for its clusters")
    # Linux sets it while the volume is mounted: fs/fat/inode.c, fat_set_state().
    if boot[0x41 if is_fat32 else 0x25] & _DIRTY:
        raise NotUnderstood("it was not unmounted")
    return Volume(
        bits, total * sector, reserved * sector, per_table * sector, data * sector,
        per_cluster * sector, clusters, media,
    )  # fmt: skip


def read_table(volume: Volume, table: bytes) -> Sequence[int]:
    """Return the table's entries.

    :raises: NotUnderstood if it does not begin as a table does, or says that it is dirty.
    """
    if volume.bits == 12:
        entries = array("H", _twelve_bits(table))
    else:
        entries = array("H" if volume.bits == 16 else "I", table)
        if sys.byteorder == "big":
            entries.byteswap()
    if entries[0] & 0xFF != volume.media:
        raise NotUnderstood("its table does not begin with its medium")
    # Windows clears the first of them while it is mounted, the second after an error.
    clean = {12: 0, 16: 0xC000, 32: 0x0C000000}[volume.bits]
    if entries[1] & clean != clean:
        raise NotUnderstood("it was not unmounted, or had errors")
    return entries


def _twelve_bits(table: bytes) -> Iterator[int]:
    for place in range(0, len(table) // 3 * 3, 3):
        low, middle, high = table[place : place + 3]
        yield low | (middle & 0xF) << 8
        yield middle >> 4 | high << 4


def _free(volume: Volume, entries: Sequence[int]) -> Iterator[tuple[int, int]]:
    mask = 0x0FFFFFFF
    for number in range(volume.clusters):
        if not entries[number + 2] & mask:
            yield volume.data + number * volume.cluster, volume.cluster
