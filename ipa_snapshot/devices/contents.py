# SPDX-License-Identifier: Apache-2.0
"""What is used of a partition or a logical volume: its file system's map, or all of it.

A dirty journal is replayed on an overlay first. Whatever goes wrong is an error of
:data:`FAILURES`, and its text the reason why something is copied whole.
"""

import struct
from dataclasses import dataclass, replace

from oslo_log import log

from ipa_snapshot.devices import file_systems, overlay
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import (
    DirtyJournal,
    FileSystemMap,
    Mapper,
    NotUnderstood,
    View,
    checked,
)
from ipa_snapshot.devices.partitions import Partition, Slot
from snapshot_core import process

LOG = log.getLogger(__name__)

# the last three: what a reader of a program's output, or of the disk, makes of what is damaged
FAILURES = (
    NotUnderstood, process.ProgramFailed, OSError, ValueError, LookupError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Mapped:
    """A partition, with its used ranges from the disk's first byte.

    :param unmapped: what of them no file system vouches for.
    """

    partition: Partition
    used: Extents
    unmapped: Extents
    warnings: tuple[str, ...] = ()


def map_view(view: View, fs: str | None) -> FileSystemMap:
    """Return what the file system ``fs`` uses of what is shown.

    :raises: FAILURES
    """
    mapper = None if fs is None else file_systems.MAPPERS.get(fs)
    if fs is None or mapper is None:
        raise NotUnderstood(_why_unknown(fs))
    try:
        return checked(mapper(view), view)
    except DirtyJournal as exc:
        return _map_after_replay(fs, mapper, view, exc.log_size)


def _map_after_replay(fs: str, mapper: Mapper, view: View, log_size: int) -> FileSystemMap:
    try:
        with overlay.open_overlay(view, log_size) as over:
            overlay.replay(fs, over)
            touched = over.touched()
            found = checked(mapper(over.view), view)
            over.touched()  # once more: the tools must not have met an error either
    except DirtyJournal as exc:
        raise NotUnderstood("its journal is dirty, and still is after its replay") from exc
    except (NotUnderstood, process.ProgramFailed, OSError) as exc:
        raise NotUnderstood("its journal is dirty and was not replayed: %s" % exc) from exc
    used = found.used.union(touched.clipped(0, found.size))
    return replace(found, used=used, journal="dirty, replayed on an overlay")


def _why_unknown(fs: str | None) -> str:
    if fs is None:
        return "nothing is recognised on it"
    return file_systems.NOT_EXAMINED.get(fs, "%s: not a file system whose map is read" % fs)


def copied_whole(slot: Slot, fs: str | None, reason: str) -> Mapped:
    """Return the map of a partition that is not understood."""
    reason, warning = tell_whole("partition %d" % slot.number, fs, reason)
    extents = Extents([(slot.start, slot.size)])
    partition = Partition(
        slot.number, slot.start, slot.size, fs, slot.size, "copied whole: %s" % reason
    )
    return Mapped(partition, extents, extents, (warning,))


def tell_whole(what: str, fs: str | None, reason: str) -> tuple[str, str]:
    """Log that something is copied whole; return the reason, and the warning for the result."""
    reason = " ".join(process.printable(reason).split())[:200]
    warning = "%s (%s) is copied whole: %s" % (what, fs or "unknown", reason)
    LOG.warning("%(warning)s", {"warning": warning})
    return reason, warning
