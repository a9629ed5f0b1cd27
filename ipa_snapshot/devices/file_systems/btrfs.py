# SPDX-License-Identifier: Apache-2.0
"""btrfs on one device: the extent tree, as ``btrfs inspect-internal`` (btrfs-progs 6.2) prints it.

Every allocated extent, of data and of metadata, is an item of the extent tree; the chunk tree
tells where its copies lie. As much must be found as the superblock counts as used. partclone 0.3.23
is not taken: it marks half as much again, and does not refuse what it does not know.

Copied whole: several devices, a seed, a log tree. The log tree holds what was fsync'ed since the
last commit, in blocks that the extent tree does not know; it cannot be replayed on an overlay,
since the kernel may pick the original by its identity.
"""

import bisect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import (
    FileSystemMap,
    NotUnderstood,
    View,
    checked,
    unknown_bits,
)
from snapshot_core import process

_MEMORY = 1024 * process.MIB
_TIMEOUT_S = 300
# linux/btrfs.h: mixed_backref, default_subvol, mixed_groups, compress_lzo, compress_zstd,
# big_metadata, extended_iref, skinny_metadata, no_holes, metadata_uuid. Not here: raid56, raid1c34,
# zoned, extent_tree_v2, raid_stripe_tree, simple_quota.
_INCOMPAT = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400
_COMPAT_RO = 0x1 | 0x2 | 0x4 | 0x8  # free_space_tree and valid, verity, block_group_tree
_WRITTEN = 0x1
_MIB = 1024 * 1024
# The first MiB is kept free for boot loaders; superblocks have no extents.
_FIXED = ((0, _MIB), (64 * _MIB, 4096), (256 * 1024 * _MIB, 4096))
_NEEDED = (
    "flags", "log_root", "total_bytes", "bytes_used", "nodesize", "num_devices", "compat_flags",
    "compat_ro_flags", "incompat_flags", "csum_type",
)  # fmt: skip
_FIELD = re.compile(r"([a-z_]+)\t+(0x[0-9a-f]+|\d+)(?:\s.*)?")
_EXTENT = re.compile(r"\titem \d+ key \((\d+) (EXTENT|METADATA)_ITEM (\d+)\)")
_CHUNK = re.compile(r"\titem \d+ key \(FIRST_CHUNK_TREE CHUNK_ITEM (\d+)\)")
_CHUNK_TYPE = re.compile(r"\t\tlength (\d+) owner \d+ stripe_len \d+ type (\S+)")
_STRIPE = re.compile(r"\t\t\tstripe \d+ devid (\d+) offset (\d+)")
_PROFILES = frozenset({"single", "DUP"})
_KINDS = frozenset({"DATA", "METADATA", "SYSTEM"})


@dataclass
class Chunk:
    """A range of logical bytes, and where its copies begin on the device."""

    start: int
    length: int
    copies: list[int]


def map_btrfs(view: View) -> FileSystemMap:
    """Return what a btrfs uses.

    :raises: NotUnderstood, process.ProgramFailed
    """
    fields = read_superblock(_inspect(view, "dump-super"))
    _refuse_unknown(fields)
    chunks = read_chunks(_inspect(view, "dump-tree", "--noscan", "-t", "chunk"))
    counted = 0

    def extents() -> Iterator[tuple[int, int]]:
        nonlocal counted
        lines = _inspect(view, "dump-tree", "--noscan", "-t", "extent")
        for start, length in within(read_extents(lines, fields["nodesize"]), chunks):
            counted += length
            yield start, length

    logical = Extents.covering(extents())
    if counted != fields["bytes_used"]:
        raise NotUnderstood(
            "the extent tree has %d bytes, but the superblock counts %d"
            % (counted, fields["bytes_used"])
        )
    size = fields["total_bytes"]
    fixed = Extents(_FIXED).clipped(0, size)
    used = Extents.covering(physical(logical, chunks)).union(fixed)
    return checked(FileSystemMap(used, size, "btrfs: extent tree"), view)


def _inspect(view: View, *command: str) -> Iterator[str]:
    return process.lines(
        "btrfs", "inspect-internal", *command, view.path, memory=_MEMORY, timeout_s=_TIMEOUT_S
    )


def read_superblock(lines: Iterable[str]) -> dict[str, int]:
    """Return the fields of the superblock that are numbers.

    :raises: NotUnderstood if one is missing that is needed, or comes twice.
    """
    fields: dict[str, int] = {}
    for line in lines:
        if found := _FIELD.fullmatch(line):
            if found[1] in fields:
                raise NotUnderstood("btrfs says %s twice" % found[1])
            fields[found[1]] = int(found[2], 0)
        if "[DON'T MATCH]" in line:
            raise NotUnderstood("the superblock's checksum is wrong")
    missing = [name for name in _NEEDED if name not in fields]
    if missing:
        raise NotUnderstood("btrfs does not say %s" % ", ".join(missing))
    return fields


def _refuse_unknown(fields: dict[str, int]) -> None:
    unknown_bits("flags", fields["flags"], _WRITTEN)  # SEEDING and METADUMP among them
    unknown_bits("incompatible", fields["incompat_flags"], _INCOMPAT)
    unknown_bits("read-only compatible", fields["compat_ro_flags"], _COMPAT_RO)
    unknown_bits("compatible", fields["compat_flags"], 0)
    if fields["num_devices"] != 1:
        raise NotUnderstood("it has %d devices" % fields["num_devices"])
    if fields["log_root"] != 0:
        raise NotUnderstood("it has a log tree that was not replayed")


def read_chunks(lines: Iterable[str]) -> list[Chunk]:
    """Return the chunks in order.

    :raises: NotUnderstood
    """
    chunks: list[Chunk] = []
    for line in lines:
        if found := _CHUNK.match(line):
            chunks.append(Chunk(int(found[1]), 0, []))
        elif found := _CHUNK_TYPE.match(line):
            kind, _bar, profile = found[2].rpartition("|")
            if profile not in _PROFILES or not set(kind.split("|")) <= _KINDS:
                raise NotUnderstood("a chunk of type %s" % found[2])
            chunks[-1].length = int(found[1])
        elif found := _STRIPE.match(line):
            if found[1] != "1":
                raise NotUnderstood("a chunk on device %s" % found[1])
            chunks[-1].copies.append(int(found[2]))
    if not chunks or not all(chunk.length and chunk.copies for chunk in chunks):
        raise NotUnderstood("the chunk tree is not complete")
    return sorted(chunks, key=lambda chunk: chunk.start)


def read_extents(lines: Iterable[str], node_size: int) -> Iterator[tuple[int, int]]:
    """Yield the allocated extents, as logical bytes."""
    for line in lines:
        if found := _EXTENT.match(line):
            yield int(found[1]), node_size if found[2] == "METADATA" else int(found[3])


def within(extents: Iterable[tuple[int, int]], chunks: list[Chunk]) -> Iterator[tuple[int, int]]:
    """Yield the extents, and see that chunks hold all of each.

    :raises: NotUnderstood
    """
    starts = [chunk.start for chunk in chunks]
    for start, length in extents:
        position = start
        while position < start + length:
            index = bisect.bisect_right(starts, position) - 1
            stop = chunks[index].start + chunks[index].length
            if index < 0 or stop <= position:
                raise NotUnderstood("an extent at %d lies in no chunk" % position)
            position = stop
        yield start, length


def physical(logical: Extents, chunks: list[Chunk]) -> Iterator[tuple[int, int]]:
    """Yield where logical ranges lie on the device, every copy, in the order of the device."""
    copies = sorted((copy, chunk.start, chunk.length) for chunk in chunks for copy in chunk.copies)
    for copy, begin, length in copies:
        for start, size in logical.clipped(begin, length):
            yield copy + start - begin, size
