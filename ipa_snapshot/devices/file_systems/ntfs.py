# SPDX-License-Identifier: Apache-2.0
"""NTFS 3.0 and 3.1: a cluster is free where ``$Bitmap`` holds a zero, if the volume is clean.

Clean is a volume without flags, whose log says so, and which holds no hibernated Windows. A log
that is empty says nothing: ntfs-3g 2022.10.3 empties it when it mounts, and sets no flag of its
own. There ``ntfsresize --info`` must find every cluster of every file in ``$Bitmap``, and no other.

The boot sector's copy lies behind the volume, and is copied like all that is there.
"""

import os
import struct
from collections.abc import Callable, Iterator

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import bitmaps
from ipa_snapshot.devices.file_systems import ntfs_records as records
from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, from_free
from ipa_snapshot.devices.file_systems.ntfs_records import Record, Stream
from snapshot_core import process

_MEMORY = 1024 * process.MIB
_TIMEOUT_S = 300
_MFT, _LOG, _VOLUME, _ROOT, _BITMAP = 0, 2, 3, 5, 6  # numbers of records
_MOST_LOG = 4 * 1024 * process.MIB  # ntfs-3g reads no more either
_MOST_ROOT = 64 * process.MIB
_LOG_PAGE = 4096
_LOG_VERSION = (1, 1)  # 2.0: Windows keeps metadata in its own cache, or crashed
_NO_CLIENT = 0xFFFF
_VOLUME_IS_CLEAN = 0x2
_HIBERNATION = "hiberfil.sys"
_RESUMED = (b"wake", b"WAKE")

Reader = Callable[[int], Record]


def map_ntfs(view: View) -> FileSystemMap:
    """Return what an NTFS uses.

    :raises: NotUnderstood, process.ProgramFailed, OSError
    """
    fd = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _map(view, fd)
    except (struct.error, LookupError, ValueError) as exc:
        raise NotUnderstood("a record that is damaged: %s" % exc) from exc
    finally:
        os.close(fd)


def _map(view: View, fd: int) -> FileSystemMap:
    boot = records.read_boot_sector(os.pread(fd, 512, 0))
    size = boot.cluster * boot.clusters
    if size > view.size:
        raise NotUnderstood("the volume has %d bytes, its partition %d" % (size, view.size))
    first = os.pread(fd, boot.record, boot.mft * boot.cluster)
    mft = records.read_record(fd, boot, first).stream(records.DATA)

    def record(number: int) -> Record:
        return records.read_record(fd, boot, mft.read(number * boot.record, boot.record))

    check_flags(record(_VOLUME).value(records.VOLUME_INFORMATION))
    check_hibernation(record(_ROOT), record)
    log, bitmap = record(_LOG).stream(records.DATA), record(_BITMAP).stream(records.DATA)
    if is_empty(log):
        _check_accounting(view)
        known_by = "NTFS: $Bitmap, checked by ntfsresize"
    else:
        check_log(log)
        known_by = "NTFS: $Bitmap"
    clusters = bitmaps.zeros(bitmap.pieces(), boot.clusters)
    free = ((start * boot.cluster, length * boot.cluster) for start, length in clusters)
    found = from_free(free, view, size, known_by, "clean")
    own = Extents([(0, boot.cluster), *mft.runs, *log.runs, *bitmap.runs])
    if own.without(found.used):
        raise NotUnderstood("$Bitmap calls the volume's own files free")
    return found


def check_flags(information: bytes) -> None:
    """Refuse a volume that is of an unknown version, or has any flag: dirty, to be checked, ...

    :raises: NotUnderstood
    """
    major, minor, flags = struct.unpack_from("<BBH", information, 8)
    if (major, minor) not in ((3, 0), (3, 1)):
        raise NotUnderstood("NTFS of version %d.%d" % (major, minor))
    if flags:
        raise NotUnderstood("it was not unmounted, or is to be checked (flags 0x%x)" % flags)


def is_empty(log: Stream) -> bool:
    """Return whether a log is empty: all of it 0xFF.

    :raises: NotUnderstood, OSError
    """
    if not 0 < log.size <= _MOST_LOG:
        raise NotUnderstood("a log of %d bytes" % log.size)
    return not any(piece.strip(b"\xff") for piece in log.pieces())


def check_log(log: Stream) -> None:
    """Refuse a log that is not clean. The newer of its two restart pages tells.

    :raises: NotUnderstood, OSError
    """
    pages = [_restart_page(log.read(start, _LOG_PAGE)) for start in (0, _LOG_PAGE)]
    newest = max(number for number, _clean in pages)
    if not all(clean for number, clean in pages if number == newest):
        raise NotUnderstood("it was not unmounted: its log is in use")


def _restart_page(page: bytes) -> tuple[int, bool]:
    """Return its sequence number, and whether it says that the volume is clean."""
    # Not CHKD, which chkdsk leaves: what it repaired, the next mount has to go through.
    page = records.fixed_up(page, b"RSTR")
    size, _log_size, area, minor, major = struct.unpack_from("<IIHhh", page, 16)
    if (major, minor) != _LOG_VERSION or size != _LOG_PAGE:
        raise NotUnderstood("a log of version %d.%d with pages of %d bytes" % (major, minor, size))
    number, _clients, _free, in_use, flags = struct.unpack_from("<qHHHH", page, area)
    return number, in_use == _NO_CLIENT or bool(flags & _VOLUME_IS_CLEAN)


def check_hibernation(root: Record, record: Reader) -> None:
    """Refuse a volume with a hibernated Windows, whose memory knows more than the disk.

    :param root: the record of the root directory; ``record`` reads one by its number.
    :raises: NotUnderstood, OSError
    """
    for name, number in directory(root):
        if name.lower() != _HIBERNATION:
            continue
        content = record(number).stream(records.DATA)
        if content.initialized == 0:
            continue  # Windows made it, and never wrote to it
        begin = content.read(0, 4096)
        if any(begin) and begin[:4] not in _RESUMED:
            raise NotUnderstood("a hibernated Windows, or one with a fast start-up")


def directory(root: Record) -> Iterator[tuple[str, int]]:
    """Yield the names in a directory, with the numbers of their records.

    :raises: NotUnderstood, OSError
    """
    index = root.value(records.INDEX_ROOT, "$I30")
    has_blocks = root.has(records.INDEX_ALLOCATION, "$I30")
    if records.is_large(index) and not has_blocks:
        raise NotUnderstood("a root directory whose blocks are not where its record says")
    yield from records.index_names(index, 16)
    if not has_blocks:
        return
    (size,) = struct.unpack_from("<I", index, 8)
    if size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        raise NotUnderstood("an index of blocks of %d bytes" % size)
    blocks = root.stream(records.INDEX_ALLOCATION, "$I30")
    if blocks.size > _MOST_ROOT:
        raise NotUnderstood("a root directory of %d bytes" % blocks.size)
    in_use = root.value(records.BITMAP, "$I30")
    for number in range(blocks.size // size):
        if in_use[number // 8] >> number % 8 & 1:
            block = records.fixed_up(blocks.read(number * size, size), b"INDX")  # codespell:ignore
            yield from records.index_names(block, 24)


def _check_accounting(view: View) -> None:
    """See that every cluster of every file is in ``$Bitmap``, and no other."""
    process.run(
        "ntfsresize", "--info", "--no-progress-bar", view.path,
        memory=_MEMORY, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
