# SPDX-License-Identifier: Apache-2.0
"""ext2, ext3, ext4: what dumpe2fs (e2fsprogs 1.47) counts as free, and inode tables never used.

Beside the free blocks, the tail of an inode table that no inode ever used is skipped: on an empty
ext4 of 2 TB that is 34 GB, which partclone copies. The number of those inodes, ``itable_unused``,
means something only where group descriptors have checksums (``uninit_bg`` or ``metadata_csum``);
then neither the kernel nor e2fsck reads beyond it, and dumpe2fs prints it only then.

dumpe2fs goes on when it finds damage, so its text is believed only if it is consistent: every
group in order, the free blocks that it lists as many as the group's descriptor counts, no checksum
other than expected. It prints names from the disk as they are, line ends too: a line of the header
that comes twice is refused.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ipa_snapshot.devices.file_systems.base import (
    DirtyJournal,
    FileSystemMap,
    NotUnderstood,
    View,
    from_free,
    unknown,
)
from snapshot_core import process

_MEMORY = 1024 * process.MIB  # for the bitmaps of a file system of any size
_TIMEOUT_S = 300
# As e2fsprogs 1.47 names them. Not here, so copied whole: journal_dev, compression, dirdata,
# snapshots, shared_blocks, and whatever comes later (FEATURE_I17 and the like).
_KNOWN = frozenset({
    "dir_prealloc", "has_journal", "ext_attr", "resize_inode", "dir_index", "sparse_super2",
    "fast_commit", "stable_inodes", "orphan_file", "orphan_present",
    "filetype", "needs_recovery", "extent", "extents", "meta_bg", "64bit", "mmp", "flex_bg",
    "ea_inode", "metadata_csum_seed", "large_dir", "inline_data", "encrypt", "casefold",
    "sparse_super", "large_file", "huge_file", "uninit_bg", "dir_nlink", "extra_isize", "quota",
    "bigalloc", "metadata_csum", "read-only", "project", "verity",
})  # fmt: skip
_HEADER = re.compile(r"([A-Z][A-Za-z0-9 #]*):\s+(.*)")
_GROUP = re.compile(r"Group (\d+): \(Blocks (\d+)-(\d+)\)")
_TABLE = re.compile(r"  Inode table at (\d+)-(\d+)")
_COUNTS = re.compile(r"  (\d+) free (?:blocks|clusters), .* directories(?:, (\d+) unused inodes)?")
_FREE = "  Free blocks: "


def map_ext(view: View) -> FileSystemMap:
    """Return what an ext file system uses.

    :raises: NotUnderstood, DirtyJournal, process.ProgramFailed
    """
    lines = process.lines("dumpe2fs", view.path, memory=_MEMORY, timeout_s=_TIMEOUT_S)
    return read_dumpe2fs(lines, view)


def read_dumpe2fs(lines: Iterable[str], view: View) -> FileSystemMap:
    """Return the map that dumpe2fs' text tells.

    :raises: NotUnderstood, DirtyJournal
    """
    lines = iter(lines)
    words, first = _read_header(lines)
    header = _Header.parse(words)
    groups = _Groups(header)
    size = header.blocks * header.block_size
    journal = "clean" if "has_journal" in header.features else None
    free = groups.free(itertools.chain(first, lines))
    found = from_free(free, view, size, "dumpe2fs: free blocks", journal)
    if not groups.skipped:
        return found
    return replace(found, known_by=found.known_by + " and unused inode tables")


@dataclass(frozen=True)
class _Header:
    """What the superblock says; blocks and clusters are counted in blocks."""

    features: frozenset[str]
    blocks: int
    first_block: int
    block_size: int
    blocks_per_group: int
    cluster: int
    inode_size: int

    @classmethod
    def parse(cls, words: dict[str, str]) -> "_Header":
        """Take what is needed from the header's lines.

        :raises: NotUnderstood, DirtyJournal
        """
        try:
            header = cls(
                frozenset(words["Filesystem features"].split()) - {"(none)"},
                int(words["Block count"]),
                int(words["First block"]),
                int(words["Block size"]),
                int(words["Blocks per group"]),
                int(words.get("Cluster size", words["Block size"])) // int(words["Block size"]),
                int(words["Inode size"]),
            )
        except (LookupError, ValueError, ZeroDivisionError) as exc:
            raise NotUnderstood("dumpe2fs' header lacks something: %s" % exc) from exc
        if min(header.blocks, header.blocks_per_group, header.cluster, header.inode_size) < 1:
            raise NotUnderstood("dumpe2fs' header has a size of nothing")
        unknown(header.features, _KNOWN)
        if words.get("Filesystem state") != "clean":
            raise NotUnderstood("its state is %r" % words.get("Filesystem state"))
        _check_journal(header.features, words, header.block_size)
        return header

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)


def _check_journal(features: frozenset[str], words: dict[str, str], block_size: int) -> None:
    if "has_journal" not in features:
        if "needs_recovery" in features:
            raise NotUnderstood("it needs a journal that it has not")
        return
    if "Journal inode" not in words or "Journal device" in words:
        raise NotUnderstood("its journal is on another device")
    if "needs_recovery" in features:
        if "fast_commit" in features:
            # replayed by changing single inodes and extents, of which e2fsck's way is not the
            # kernel's
            raise NotUnderstood("its journal is dirty and may hold fast commits")
        raise DirtyJournal(_journal_size(words, block_size))
    if words.get("Journal start") != "0":
        raise NotUnderstood("its journal is not empty, but needs no recovery")


def _journal_size(words: dict[str, str], block_size: int) -> int:
    try:
        return int(words["Total journal blocks"]) * block_size
    except (LookupError, ValueError) as exc:
        raise NotUnderstood("the size of its journal is not known") from exc


def _read_header(lines: Iterator[str]) -> tuple[dict[str, str], list[str]]:
    """Return the lines before the first group by their names, and the line of that group."""
    words: dict[str, str] = {}
    for line in lines:
        if "Run e2fsck now" in line:
            raise NotUnderstood("dumpe2fs sees wrong checksums")
        if _GROUP.match(line):
            return words, [line]
        found = _HEADER.fullmatch(line)
        if found is not None:
            if found[1] in words:
                raise NotUnderstood("dumpe2fs says %r twice" % found[1])
            words[found[1]] = found[2].strip()
    return words, []


class _Groups:
    """Takes the lines of the groups, and gathers what is free."""

    def __init__(self, header: _Header) -> None:
        self._header = header
        self._found: list[tuple[int, int]] = []  # first, and behind the last: of the last line
        self._number = -1
        self._first = self._last = 0
        self._table: tuple[int, int] | None = None
        self._counted: int | None = None
        self._listed = 0
        self.skipped = 0

    def free(self, lines: Iterable[str]) -> Iterator[tuple[int, int]]:
        """Yield what is free, in bytes: what of it is wrong may be told at the end only.

        :raises: NotUnderstood
        """
        size = self._header.block_size
        for line in lines:
            self._take(line)
            for start, end in self._found:
                yield start * size, (end - start) * size
            self._found.clear()
        self._finish()

    def _take(self, line: str) -> None:
        if line.startswith(_FREE):
            self._take_free(line[len(_FREE) :])
        elif line.startswith("Group "):
            self._finish_group()
            self._begin(line)
        elif found := _TABLE.match(line):
            self._table = int(found[1]), int(found[2])
        elif found := _COUNTS.fullmatch(line):
            self._counted = int(found[1])
            self._take_unused(int(found[2] or 0))
        if "(EXPECTED" in line:
            raise NotUnderstood("dumpe2fs sees a wrong checksum in group %d" % self._number)

    def _finish(self) -> None:
        """See that the last group was the last."""
        self._finish_group()
        if self._number + 1 != self._header.groups:
            raise NotUnderstood(
                "dumpe2fs lists %d groups of %d" % (self._number + 1, self._header.groups)
            )

    def _finish_group(self) -> None:
        """See that as much was listed as free as was counted."""
        if self._number < 0:
            return
        if self._counted is None or self._counted * self._header.cluster != self._listed:
            raise NotUnderstood(
                "group %d counts %s free clusters, but lists %d free blocks"
                % (self._number, self._counted, self._listed)
            )

    def _begin(self, line: str) -> None:
        header, found = self._header, _GROUP.match(line)
        first = header.first_block + (self._number + 1) * header.blocks_per_group
        last = min(first + header.blocks_per_group, header.blocks) - 1
        if found is None or tuple(map(int, found.groups())) != (self._number + 1, first, last):
            raise NotUnderstood("dumpe2fs' groups are not in order: %r" % line[:60])
        self._number, self._first, self._last = self._number + 1, first, last
        self._table, self._counted, self._listed = None, None, 0

    def _take_free(self, ranges: str) -> None:
        for text in filter(None, ranges.strip().split(", ")):
            first, _dash, last = text.partition("-")
            # With bigalloc, dumpe2fs 1.47 names the first block of the last free cluster.
            start, end = int(first), int(last or first) + self._header.cluster
            end = min(end, self._last + 1)
            if not self._first <= start < end:
                raise NotUnderstood("group %d lists what is not its own" % self._number)
            self._found.append((start, end))
            self._listed += end - start

    def _take_unused(self, inodes: int) -> None:
        blocks = inodes * self._header.inode_size // self._header.block_size
        if not blocks:
            return
        if self._table is None or blocks > self._table[1] - self._table[0] + 1:
            raise NotUnderstood("group %d has more unused inodes than inodes" % self._number)
        self._found.append((self._table[1] + 1 - blocks, self._table[1] + 1))
        self.skipped += blocks
