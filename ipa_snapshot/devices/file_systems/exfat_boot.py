# SPDX-License-Identifier: Apache-2.0
"""Where the parts of an exFAT lie: its two boot regions.

They must be alike, with the right checksums, and say that the volume was closed as it should be.
All is little-endian. Layout: Microsoft's exFAT specification of 2019, revision 1.00, section 3.
"""

import os
import struct
from dataclasses import dataclass

from ipa_snapshot.devices.file_systems.base import NotUnderstood, unknown_bits

FIRST = 2  # the number of the first cluster
_REGION = 12  # sectors of a boot region, the last of which has its checksum
_LEAST_SHIFT, _MOST_SHIFT, _MOST_CLUSTER_SHIFT = 9, 12, 25
_MOST_CLUSTERS = (1 << 32) - 11
_SECOND_FAT, _DIRTY, _MEDIA_FAILURE, _CLEAR_TO_ZERO = 0x1, 0x2, 0x4, 0x8
# Flags and the percentage in use: no checksum has them, and only the first region is kept current.
_VOLATILE = frozenset({106, 107, 112})


@dataclass(frozen=True)
class Volume:
    """What the boot sector says; sizes and places in bytes.

    ``table`` and ``heap`` are where the file allocation table and the clusters begin; ``clusters``
    is their number, and ``root`` the number of the root directory's first one.
    """

    size: int
    table: int
    heap: int
    cluster: int
    clusters: int
    root: int

    def place(self, number: int) -> int:
        """Return where a cluster begins."""
        return self.heap + (number - FIRST) * self.cluster


def read_boot_regions(fd: int) -> Volume:
    """Return what both boot regions say.

    :raises: NotUnderstood, OSError
    """
    boot = os.pread(fd, 512, 0)
    if len(boot) != 512 or boot[3:11] != b"EXFAT   " or boot[510:] != b"\x55\xaa":
        raise NotUnderstood("no boot sector")
    volume = read_boot_sector(boot)
    sector = 1 << boot[108]
    regions = [os.pread(fd, _REGION * sector, start * sector) for start in (0, _REGION)]
    for region in regions:
        last = (_REGION - 1) * sector
        if region[last:] != struct.pack("<I", checksum(region[:last])) * (sector // 4):
            raise NotUnderstood("a boot region with a wrong checksum")
    if _lasting(regions[0]) != _lasting(regions[1]):
        raise NotUnderstood("two boot regions that differ")
    return volume


def read_boot_sector(boot: bytes) -> Volume:
    """Return what a boot sector says.

    :raises: NotUnderstood
    """
    (
        length, table, per_table, heap, clusters, root, _serial, version, flags, shift,
        per_cluster, tables,
    ) = struct.unpack_from("<Q6IHHBBB", boot, 72)  # fmt: skip
    if version >> 8 != 1 or tables != 1:
        raise NotUnderstood("exFAT of version 0x%x with %d tables" % (version, tables))
    if flags & (_SECOND_FAT | _DIRTY | _MEDIA_FAILURE):
        raise NotUnderstood("it was not unmounted, or had errors (flags 0x%x)" % flags)
    unknown_bits("flags", flags, _CLEAR_TO_ZERO)
    if not _LEAST_SHIFT <= shift <= _MOST_SHIFT or shift + per_cluster > _MOST_CLUSTER_SHIFT:
        raise NotUnderstood("sectors of 2^%d bytes, 2^%d to a cluster" % (shift, per_cluster))
    if (
        any(boot[11:64])
        or not 0 < clusters <= _MOST_CLUSTERS
        or not FIRST <= root < FIRST + clusters
        or table < 2 * _REGION
        or per_table << shift < (FIRST + clusters) * 4
        or heap < table + per_table
        or length < heap + (clusters << per_cluster)
    ):
        raise NotUnderstood("a boot sector that contradicts itself")
    return Volume(
        length << shift, table << shift, heap << shift, 1 << shift + per_cluster, clusters, root
    )


def checksum(region: bytes) -> int:
    """Return the checksum of a boot region without its last sector."""
    found = 0
    for place, byte in enumerate(region):
        if place not in _VOLATILE:
            found = ((found & 1) << 31 | found >> 1) + byte & 0xFFFFFFFF
    return found


def _lasting(region: bytes) -> bytes:
    """Return its boot sector without what may differ."""
    return bytes(byte for place, byte in enumerate(region[:512]) if place not in _VOLATILE)
