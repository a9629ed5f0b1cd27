# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a disk matter: those that its file systems use, and all that is unknown.

Only what is understood is skipped. Everything outside partitions (boot loaders, the tables, the
backup GPT) is in the map, and so is the whole of a partition whose file system is unknown, has
features that we do not know, or whose tool fails; the reason is recorded.
"""

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from oslo_log import log

from ipa_snapshot.devices import file_systems, overlay, partitions
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import (
    DirtyJournal,
    FileSystemMap,
    Mapper,
    NotUnderstood,
    View,
    checked,
)
from ipa_snapshot.devices.file_systems.view import partition_view
from ipa_snapshot.devices.partitions import Partition, Slot
from ipa_snapshot.devices.source import Source
from snapshot_core import process

LOG = log.getLogger(__name__)

_THREADS = 4
# Both ends of a disk with a table: boot loaders and both GPTs, even where a partition claims them.
_EDGE = 1024 * 1024

# Their boot sectors end as an MBR does, which sfdisk takes for an empty table.
_LIKE_A_TABLE = frozenset({"exfat", "ntfs", "vfat"})


@dataclass(frozen=True)
class UsedMap:
    """What of a disk is to be copied.

    :param extents: all of it, from the disk's first byte.
    :param unmapped: what of it no file system vouches for: to be read, and copied if not zero.
    """

    extents: Extents
    partitions: tuple[Partition, ...]
    warnings: tuple[str, ...]
    unmapped: Extents


@dataclass(frozen=True)
class _Mapped:
    """A partition, with its used ranges from the disk's first byte."""

    partition: Partition
    used: Extents
    unmapped: Extents
    warning: str | None = None


def map_disk(source: Source) -> UsedMap:
    """Return what of the disk is to be copied; whatever is wrong with the disk, there is a map."""
    try:
        slots = partitions.read_table(source)
    except partitions.TableNotBelieved as exc:
        return _everything(source, "the partition table is not believed: %s" % exc)
    whole = Slot(0, 0, source.size)
    on_whole = partitions.identify(source, 0, source.size)
    if not slots and on_whole in _LIKE_A_TABLE:
        slots = None
    if slots is not None and on_whole is not None:
        return _everything(source, "both a partition table and %s on the whole disk" % on_whole)
    if slots is None and on_whole is None:
        return _everything(source, "neither a partition table nor a file system is recognised")
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda slot: _map_slot(source, slot), slots or [whole]))
    return _together(source, found, edges=slots is not None)


def _everything(source: Source, reason: str) -> UsedMap:
    LOG.warning("All of %(path)s is copied: %(reason)s", {"path": source.path, "reason": reason})
    everything = Extents([(0, source.size)])
    return UsedMap(everything, (), ("the whole disk is copied: %s" % reason,), everything)


def _together(source: Source, found: list[_Mapped], *, edges: bool) -> UsedMap:
    in_order = sorted(found, key=lambda one: one.partition.start)
    slots = Extents((one.partition.start, one.partition.size) for one in in_order)
    outside = slots.complement(source.size)
    if edges:
        edge = min(_EDGE, source.size)
        outside = outside.union(Extents([(0, edge), (source.size - edge, edge)]))
    unmapped = outside.union(_joined(one.unmapped for one in in_order))
    used = _joined(one.used for one in in_order)
    return UsedMap(
        used.union(unmapped),
        tuple(one.partition for one in found),
        tuple(one.warning for one in found if one.warning is not None),
        unmapped,
    )


def _joined(parts: Iterable[Extents]) -> Extents:
    return Extents(itertools.chain.from_iterable(parts))


def _map_slot(source: Source, slot: Slot) -> _Mapped:
    fs = partitions.identify(source, slot.start, slot.size)
    mapper = None if fs is None else file_systems.MAPPERS.get(fs)
    try:
        if mapper is None:
            raise NotUnderstood(_why_unknown(fs))
        found = _map_file_system(source, slot, fs or "", mapper)
    # LookupError, ValueError: what a reader of a program's output makes of output that is damaged
    except (NotUnderstood, process.ProgramFailed, OSError, ValueError, LookupError) as exc:
        return _whole(slot, fs, process.printable(str(exc)))
    used = found.used.shifted(slot.start)
    behind = Extents([(slot.start + found.size, slot.size - found.size)])
    partition = Partition(
        slot.number, slot.start, slot.size, fs, used.total + behind.total, found.known_by,
        found.journal,
    )  # fmt: skip
    return _Mapped(partition, used, behind)


def _map_file_system(source: Source, slot: Slot, fs: str, mapper: Mapper) -> FileSystemMap:
    with partition_view(source.path, slot.start, slot.size) as view:
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


def _whole(slot: Slot, fs: str | None, reason: str) -> _Mapped:
    LOG.warning(
        "Partition %(number)d (%(fs)s) is copied whole: %(reason)s",
        {"number": slot.number, "fs": fs, "reason": reason},
    )
    reason = " ".join(reason.split())[:200]
    extents = Extents([(slot.start, slot.size)])
    partition = Partition(
        slot.number, slot.start, slot.size, fs, slot.size, "copied whole: %s" % reason
    )
    warning = "partition %d (%s) is copied whole: %s" % (slot.number, fs or "unknown", reason)
    return _Mapped(partition, extents, extents, warning)
