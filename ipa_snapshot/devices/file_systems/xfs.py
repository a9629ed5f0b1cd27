# SPDX-License-Identifier: Apache-2.0
"""xfs: the free space btrees, as ``xfs_db -r -c 'freesp -d'`` (xfsprogs 6.1) walks them.

It lists the free extents of each allocation group, and the blocks of its free list (AGFL), whose
content nobody reads. xfs_db goes on when it finds damage; so it must not complain, and what it
lists must be as much as the headers of the allocation groups count. The log lies in an allocation
group and counts as used.
"""

import re
from collections.abc import Iterable, Iterator

from ipa_snapshot.devices.file_systems.base import (
    DirtyJournal,
    FileSystemMap,
    NotUnderstood,
    View,
    from_free,
    unknown_bits,
)
from snapshot_core import process

_MEMORY = 1024 * process.MIB
_TIMEOUT_S = 120
_MOST_GROUPS = 10000  # a command line a group
# linux/fs/xfs/libxfs/xfs_format.h. Not here: NEEDSREPAIR 0x10 and METADIR 0x100 and later ones.
_INCOMPAT = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80  # ftype ... bigtime, nrext64 ... parent
_RO_COMPAT = 0x1 | 0x2 | 0x4 | 0x8  # finobt, rmapbt, reflink, inobtcount
_LOG_INCOMPAT = 0x1  # extended attributes' intents
_FEATURES2 = 0x2 | 0x8 | 0x80 | 0x100 | 0x200  # lazysbcount, attr2, projid32, crc, ftype
_COUNT = re.compile(r"(?:freeblks|flcount) = (\d+)")
_FIELD = re.compile(r"(\w+) = (\S+)")
_NEEDED = (
    "blocksize", "dblocks", "agblocks", "agcount", "logstart", "logblocks", "rblocks", "rextents",
    "inprogress", "versionnum", "features2",
)  # fmt: skip


def map_xfs(view: View) -> FileSystemMap:
    """Return what an xfs uses.

    :raises: NotUnderstood, DirtyJournal, process.ProgramFailed
    """
    fields = read_superblock(_xfs_db(view, "sb 0", "print"))
    _refuse_unknown(fields)
    _check_log(view, fields)
    groups = fields["agcount"]
    counts = read_counts(
        _xfs_db(view, *(line for number in range(groups)
                        for line in ("agf %d" % number, "print freeblks flcount")))
    )  # fmt: skip
    block, listed = fields["blocksize"], 0

    def free() -> Iterator[tuple[int, int]]:
        nonlocal listed
        for start, length in read_free(_xfs_db(view, "freesp -d"), fields):
            listed += length
            yield start * block, length * block

    found = from_free(free(), view, fields["dblocks"] * block, "xfs_db: free space", "clean")
    if len(counts) != groups or sum(counts) != listed:
        raise NotUnderstood(
            "xfs_db lists %d free blocks, but %d groups of %d count %d"
            % (listed, len(counts), groups, sum(counts))
        )
    return found


def _xfs_db(view: View, *commands: str) -> Iterator[str]:
    argv = ["xfs_db", "-r"]
    for command in commands:
        argv += ["-c", command]
    # It says on stderr that a checksum is wrong, goes on, and ends with 0.
    return process.lines(*argv, view.path, memory=_MEMORY, timeout_s=_TIMEOUT_S, silent=True)


def read_superblock(lines: Iterable[str]) -> dict[str, int]:
    """Return the fields of the superblock that are numbers.

    :raises: NotUnderstood if one is missing that is needed, or comes twice.
    """
    fields: dict[str, int] = {}
    for line in lines:
        found = _FIELD.match(line)
        if found is None:
            continue
        if found[1] == "crc" and "(correct)" not in line:
            # xfs_db only warns; the kernel does not mount it, and xfs_repair takes another copy
            raise NotUnderstood("the superblock's checksum is wrong")
        if found[1] in fields:
            raise NotUnderstood("xfs_db says %s twice" % found[1])
        try:
            fields[found[1]] = int(found[2], 0)
        except ValueError:
            continue  # a name or a UUID
    missing = [name for name in _NEEDED if name not in fields]
    if missing:
        raise NotUnderstood("xfs_db does not say %s" % ", ".join(missing))
    return fields


def _refuse_unknown(fields: dict[str, int]) -> None:
    version = fields["versionnum"] & 0xF
    if version not in (4, 5):
        raise NotUnderstood("xfs of version %d" % version)
    unknown_bits("features2", fields["features2"], _FEATURES2)
    unknown_bits("incompatible", fields.get("features_incompat", 0), _INCOMPAT)
    unknown_bits("read-only compatible", fields.get("features_ro_compat", 0), _RO_COMPAT)
    unknown_bits("log incompatible", fields.get("features_log_incompat", 0), _LOG_INCOMPAT)
    unknown_bits("compatible", fields.get("features_compat", 0), 0)
    if fields["rblocks"] or fields["rextents"]:
        raise NotUnderstood("a realtime device")
    if not fields["logstart"]:
        raise NotUnderstood("its log is on another device")
    if fields["inprogress"]:
        raise NotUnderstood("mkfs or a copy of it did not end")
    if not 0 < fields["agcount"] <= _MOST_GROUPS:
        raise NotUnderstood("%d allocation groups" % fields["agcount"])


def _check_log(view: View, fields: dict[str, int]) -> None:
    # It prints what is in the log too: line by line, as that is the tenant's, and may be much.
    lines = process.lines("xfs_logprint", "-t", view.path, timeout_s=_TIMEOUT_S)
    states = [state for line in lines for state in re.findall(r"state: <([A-Z]+)>", line)]
    if states == ["DIRTY"]:
        raise DirtyJournal(fields["logblocks"] * fields["blocksize"])
    if states != ["CLEAN"]:
        raise NotUnderstood("xfs_logprint does not know the state of the log")


def read_counts(lines: Iterable[str]) -> list[int]:
    """Return how many blocks each allocation group counts as free, its free list included.

    :raises: NotUnderstood
    """
    numbers = [int(found[1]) for line in lines if (found := _COUNT.fullmatch(line.rstrip()))]
    if len(numbers) % 2:
        raise NotUnderstood("xfs_db does not print every group's header")
    return [sum(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def read_free(lines: Iterable[str], fields: dict[str, int]) -> Iterator[tuple[int, int]]:
    """Yield ``(start, length)`` of what ``freesp -d`` lists, in blocks from the first.

    :raises: NotUnderstood
    """
    for line in lines:
        words = line.split()
        if len(words) != 3 or not all(map(str.isdecimal, words)):
            continue  # headings, and the histogram
        group, first, length = map(int, words)
        # The first block is the group's header.
        if group >= fields["agcount"] or not 0 < first < first + length <= fields["agblocks"]:
            raise NotUnderstood("xfs_db lists what no group has: %r" % line)
        yield group * fields["agblocks"] + first, length
