# SPDX-License-Identifier: Apache-2.0
"""What is on the disk: its partition table and file systems, as far as they are recognised.

The disk is a tenant's, so the programs that look at it are limited in memory and time, and what
they cannot make sense of is "unknown": then nothing is skipped.
"""

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from oslo_log import log

from ipa_snapshot.devices.file_systems.base import View
from ipa_snapshot.devices.file_systems.view import loop_device, partition_view
from ipa_snapshot.devices.source import Source
from snapshot_core import process

LOG = log.getLogger(__name__)

_NOT_EXAMINED = "not examined: every block that is not zero is copied"
# A hostile table may hold thousands; a result must stay small enough for a command's answer.
_MOST = 128
_NUMBER = re.compile(r"\d+$")
# MBR types whose area holds further tables and logical partitions, not data of its own
_EXTENDED = frozenset({"5", "f", "85", "c5"})
# Windows' dynamic disks and storage pools: what begins like a file system may go on elsewhere.
_LDM = frozenset({"42", "AF9B60A0-1431-4F62-BC68-3311714A69AD",
                  "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3"})  # fmt: skip
_STORAGE_SPACES = "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D"
_NO_TABLE = "does not contain a recognized partition table"
_NOTHING_FOUND = "exit status 2"  # blkid's, without a message
_GPT_SIGNATURE = b"EFI PART"
_SECTOR_SIZES = (512, 1024, 2048, 4096)
_MBR_ENTRIES = range(446, 510, 16)


class TableNotBelieved(Exception):
    """The table contradicts itself or the disk; the message says how."""


@dataclass(frozen=True)
class Slot:
    """A row of the partition table; ``start`` and ``size`` in bytes.

    ``type`` is as sfdisk names it: an MBR's in hexadecimal, a GPT's a GUID.
    """

    number: int
    start: int
    size: int
    type: str = ""

    @property
    def end(self) -> int:
        """The byte behind the last."""
        return self.start + self.size


@dataclass(frozen=True)
class Content:
    """What is on a partition or a logical volume.

    :param fs: blkid's name for it, None where it knows none or sees several.
    :param reason: why it is to be copied whole, None if its ``fs`` is all that is there.
    """

    fs: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Signatures:
    """What blkid sees: a file system or the like, and a partition table (``dos``, ``gpt``, ...)."""

    fs: str | None = None
    table: str | None = None


@dataclass(frozen=True)
class Volume:
    """A logical volume, and how much of it is used on this disk; sizes in bytes.

    ``name`` is that of its volume group, a slash and its own; the rest is as with a partition.
    """

    name: str
    size: int
    fs: str | None
    used: int
    used_source: str
    journal: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return one of the ``volumes`` of a partition."""
        return {
            "name": self.name,
            "size": self.size,
            "fs": self.fs,
            "used": self.used,
            "used_source": self.used_source,
            "journal": self.journal,
        }


@dataclass(frozen=True)
class Partition:
    """A partition: how much of it is used, and how that is known; sizes and places in bytes.

    ``number`` is 0 for a file system on a whole disk, ``fs`` None where none is recognised.
    ``journal`` is ``clean``, ``dirty, replayed on an overlay``, or None where there is none or it
    is not known. ``volumes`` are the logical volumes that begin on it.
    """

    number: int
    start: int
    size: int
    fs: str | None
    used: int
    used_source: str
    journal: str | None = None
    volumes: tuple[Volume, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return one of the ``partitions`` of a snapshot's result."""
        row: dict[str, Any] = {
            "number": self.number,
            "start": self.start,
            "size": self.size,
            "fs": self.fs,
            "used": self.used,
            "used_source": self.used_source,
            "journal": self.journal,
        }
        if self.volumes:
            row["volumes"] = [volume.to_wire() for volume in self.volumes]
        return row


def list_partitions(source: Source) -> list[Partition]:
    """Return the partitions of the disk, none if it has no table that is understood.

    All of each counts as used: its file system is recognised, but not examined.
    """
    try:
        slots = read_table(source)
    except TableNotBelieved as exc:
        LOG.warning("%(path)s: %(reason)s", {"path": source.path, "reason": exc})
        return []
    return [
        Partition(
            slot.number,
            slot.start,
            slot.size,
            identify_slot(source.path, slot),
            slot.size,
            _NOT_EXAMINED,
        )
        for slot in slots or []
    ]


def read_table(source: Source) -> list[Slot] | None:
    """Return what the table (GPT, MBR with its logical partitions) says, None if there is none.

    Extended partitions are left out: between their logical partitions lie further tables.

    :raises: TableNotBelieved
    """
    try:
        with _with_sectors(source) as path:
            table = _ask_sfdisk(path)
    except (process.ProgramFailed, OSError) as exc:
        raise TableNotBelieved("it cannot be read: %s" % exc) from exc
    if table is None:
        return None
    try:
        slots = _parse(table, source.logical_sector_size)
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise TableNotBelieved("what sfdisk says of it is not understood: %r" % exc) from exc
    _check(slots, source.size)
    return slots[:_MOST]


def _ask_sfdisk(path: str) -> dict[str, Any] | None:
    """Return the table as sfdisk describes it, None if there is none.

    :raises: TableNotBelieved, process.ProgramFailed
    """
    try:
        answer = process.run("sfdisk", "--json", path)
    except process.ProgramFailed as exc:
        if exc.reason.endswith(_NO_TABLE):
            return None
        raise
    try:
        table = json.loads(answer)["partitiontable"]
    except (ValueError, LookupError, TypeError) as exc:
        raise TableNotBelieved("what sfdisk says of it is not understood: %r" % exc) from exc
    if not isinstance(table, dict):
        raise TableNotBelieved("what sfdisk says of it is not understood: %.40r" % table)
    return table


def identify_slot(path: str, slot: Slot) -> str | None:
    """Return what is on a partition: by its type where that says more than blkid, else by blkid.

    None is also the answer where blkid sees several, or fails: then nothing is certain.
    """
    return _told_by_type(slot) or _identify(path, slot.start, slot.size).fs


def examine_slot(path: str, slot: Slot) -> Content:
    """Return what is on a partition; whatever that is, there is an answer."""
    if fs := _told_by_type(slot):
        return Content(fs)
    found = _identify(path, slot.start, slot.size)
    if found.fs is None:
        return _without_fs(found)
    try:
        with partition_view(path, slot.start, slot.size) as view:
            return Content(found.fs, _why_table(view, found.table))
    except (process.ProgramFailed, OSError) as exc:
        return Content(found.fs, str(exc))


def examine_view(view: View) -> Content:
    """Return what is on something that is shown; whatever that is, there is an answer."""
    found = _identify(view.path, 0, view.size)
    if found.fs is None:
        return _without_fs(found)
    return Content(found.fs, _why_table(view, found.table))


def identify_whole(source: Source) -> Signatures:
    """Return what blkid sees on the whole disk.

    :raises: TableNotBelieved where it sees several file systems, or fails. Where there is a table,
        it may be one that sfdisk brought back from its backup, which all of these overwrote.
    """
    try:
        return _probe(source.path, 0, source.size)
    except process.ProgramFailed as exc:
        raise TableNotBelieved("what is on the whole disk is not known: %s" % exc) from exc


def _told_by_type(slot: Slot) -> str | None:
    if slot.type.upper() in _LDM:
        return "ldm"
    if slot.type.upper() == _STORAGE_SPACES:
        return "storage_spaces"
    return None


def _identify(path: str, start: int, size: int) -> Signatures:
    try:
        return _probe(path, start, size)
    except process.ProgramFailed:
        return Signatures()


def _probe(path: str, start: int, size: int) -> Signatures:
    try:
        out = process.run(
            "blkid", "--probe", "--offset", str(start), "--size", str(size),
            "--match-tag", "TYPE", "--match-tag", "PTTYPE", "--output", "export", path,
        )  # fmt: skip
    except process.ProgramFailed as exc:
        if exc.reason == _NOTHING_FOUND:
            return Signatures()
        raise
    tags = dict(line.partition("=")[::2] for line in process.printable(out).splitlines())
    return Signatures(tags.get("TYPE") or None, tags.get("PTTYPE") or None)


def _without_fs(found: Signatures) -> Content:
    return Content(None, None if found.table is None else _table_on_it(found.table))


def _table_on_it(label: str) -> str:
    return "a partition table (%s) lies on it" % label


def _why_table(view: View, table: str | None) -> str | None:
    """Tell of a partition table on what also looks like a file system, None if there is none.

    What the table describes may be newer than the file system, which then is no more than what
    nobody overwrote. An MBR without entries is a boot sector.

    :param table: what blkid sees. About an MBR on vfat and ntfs it keeps silent.
    """
    if table not in (None, "dos"):
        return _table_on_it(str(table))
    try:
        begin = _begin(view.path)
        if any(begin[size:].startswith(_GPT_SIGNATURE) for size in _SECTOR_SIZES):
            return _table_on_it("gpt")
        if _is_boot_code(begin):
            return None if table is None else _table_on_it(table)
        described = _ask_sfdisk(view.path)
    except (TableNotBelieved, process.ProgramFailed, OSError) as exc:
        return "whether a partition table lies on it is not known: %s" % exc
    if described is None or (described.get("label") == "dos" and not described.get("partitions")):
        return None
    return _table_on_it(process.printable(str(described.get("label"))))


def _begin(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, 2 * 4096, 0)
    finally:
        os.close(fd)


def _is_boot_code(begin: bytes) -> bool:
    """Tell whether a boot sector has code or text where an MBR has its entries.

    sfdisk 2.38 takes what the boot sectors of Windows say there for partitions. The kernel
    (block/partitions/msdos.c) and blkid believe no MBR with such a boot indicator.
    """
    return begin[510:512] == b"\x55\xaa" and any(begin[at] not in (0, 0x80) for at in _MBR_ENTRIES)


@contextlib.contextmanager
def _with_sectors(source: Source) -> Iterator[str]:
    """Yield what sfdisk must look at: it takes the size of sectors from the device alone."""
    # sfdisk 2.38 has no --sector-size yet.
    if stat.S_ISREG(os.fstat(source.fd).st_mode) and _has_large_sectors(source):
        with loop_device(source.path, sector_size=4096) as device:
            yield device
    else:
        yield source.path


def _has_large_sectors(source: Source) -> bool:
    """Tell whether an image file is that of a disk with sectors of 4096 bytes.

    :raises: TableNotBelieved where a GPT's header is in the second sector of either size.
    """
    begin = os.pread(source.fd, 2 * 4096, 0)
    small, large = (
        begin[size : size + len(_GPT_SIGNATURE)] == _GPT_SIGNATURE for size in (512, 4096)
    )
    if small and large:
        raise TableNotBelieved("there are GPT headers for sectors of 512 and of 4096 bytes")
    return large


def _parse(table: dict[str, Any], sector_size: int) -> list[Slot]:
    sector = int(table.get("sectorsize", sector_size))
    return [
        Slot(
            int(_NUMBER.findall(row["node"])[-1]),
            int(row["start"]) * sector,
            int(row["size"]) * sector,
            str(row["type"]),
        )
        for row in table.get("partitions", [])
        if not (table.get("label") == "dos" and str(row["type"]).lower() in _EXTENDED)
    ]


def _check(slots: list[Slot], disk_size: int) -> None:
    before = Slot(0, 0, 0)
    for slot in sorted(slots, key=lambda slot: slot.start):
        if slot.start <= 0 or slot.size <= 0 or slot.end > disk_size:
            raise TableNotBelieved(
                "partition %d (%d bytes at %d) is not within the disk of %d bytes"
                % (slot.number, slot.size, slot.start, disk_size)
            )
        if slot.start < before.end:
            raise TableNotBelieved("partitions %d and %d overlap" % (before.number, slot.number))
        before = slot
