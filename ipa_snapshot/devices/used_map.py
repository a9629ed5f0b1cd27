# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a disk matter: those that its file systems use, and all that is unknown.

Only what is understood is skipped. Everything outside partitions (boot loaders, the tables, the
backup GPT) is in the map, and so is the whole of a partition whose file system is unknown, has
features that we do not know, or whose tool fails; the reason is recorded.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from oslo_log import log

from ipa_snapshot.devices import contents, partitions
from ipa_snapshot.devices.contents import Mapped
from ipa_snapshot.devices.extents import MOST_RANGES, Extents
from ipa_snapshot.devices.file_systems import swap
from ipa_snapshot.devices.file_systems.view import partition_view
from ipa_snapshot.devices.lvm.layout import Layout, PlacedVolume, read_layout
from ipa_snapshot.devices.lvm.volumes import MEMBER, MappedVolume, map_members, map_volume
from ipa_snapshot.devices.partitions import Content, Partition, Slot
from ipa_snapshot.devices.source import Source

LOG = log.getLogger(__name__)

_THREADS = 4
_TICK_S = 1.0
# Each program has minutes, and a tenant can make many partitions for them.
_MOST_S = 900
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


def map_disk(source: Source, on_tick: Callable[[], None] = lambda: None) -> UsedMap:
    """Return what of the disk is to be copied; whatever is wrong with the disk, there is a map.

    :param on_tick: is called about every second. What it raises is raised, as soon as the
        partitions that are being examined are done.
    """
    try:
        slots = partitions.read_table(source)
        on_whole = partitions.identify_whole(source)
    except partitions.TableNotBelieved as exc:
        return _everything(source, "the partition table is not believed: %s" % exc)
    whole = Slot(0, 0, source.size)
    # an Apple partition map is known to blkid, and not to sfdisk
    has_table = slots is not None or on_whole.table is not None
    if not slots and on_whole.fs in _LIKE_A_TABLE and on_whole.table in {None, "dos"}:
        slots, has_table = None, False
    if has_table and on_whole.fs is not None:
        return _everything(source, "both a partition table and %s on the whole disk" % on_whole.fs)
    if slots is None and on_whole.fs is None:
        return _everything(source, "neither a partition table nor a file system is recognised")
    try:
        found = _map_slots(source, slots or [whole], on_tick)
    except _Hibernated as exc:
        return _everything(source, str(exc))
    return _together(source, found, edges=slots is not None)


def _map_slots(source: Source, slots: list[Slot], on_tick: Callable[[], None]) -> list[Mapped]:
    examined = _Examination(source)
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            looks = [pool.submit(examined.identify, slot) for slot in slots]
            _await(looks, on_tick)
            kinds = [(slot, look.result()) for slot, look in zip(slots, looks, strict=True)]
            members = [slot for slot, on_it in kinds if _is_member(on_it)]
            reading = pool.submit(read_layout, source, members, examined.why_late)
            _await([reading], on_tick)
            layout = reading.result()
            _refuse_hibernated(source, slots, layout)
            most = 2 * MOST_RANGES // (len(slots) + len(layout.volumes))
            volumes = [pool.submit(examined.map_volume, one, most) for one in layout.volumes]
            others = [
                pool.submit(examined.map_slot, slot, on_it, most)
                for slot, on_it in kinds
                if not _is_member(on_it)
            ]
            _await([*volumes, *others], on_tick)
            mapped = map_members(layout, [volume.result() for volume in volumes])
            mapped += [other.result() for other in others]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    by_start = {one.partition.start: one for one in mapped}
    return [by_start[slot.start] for slot in slots]


class _Hibernated(Exception):
    """A hibernated system lies on the disk; the message says where."""


def _refuse_hibernated(source: Source, slots: list[Slot], layout: Layout) -> None:
    """Refuse the disk of a hibernated Linux.

    Its file systems are in use: its memory, with which they go on, names blocks that are free on
    the disk.

    :raises: _Hibernated
    """
    places: list[tuple[str, tuple[tuple[int, int], ...]]] = [
        ("partition %d" % slot.number, ((slot.start, slot.size),)) for slot in slots
    ]
    places += [("volume " + volume.name, volume.pieces) for volume in layout.volumes]
    for name, pieces in places:
        if swap.is_suspended(source.fd, pieces):
            raise _Hibernated(
                "%s holds a hibernated system, whose memory may know of more than the disk" % name
            )


def _is_member(content: Content) -> bool:
    return content.fs == MEMBER and content.reason is None


def _await(futures: Sequence[Future[Any]], on_tick: Callable[[], None]) -> None:
    pending = set(futures)
    while pending:
        _done, pending = wait(pending, _TICK_S)
        on_tick()


class _Examination:
    """Examines one partition or volume after the other, until the time for all is over."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._deadline = time.monotonic() + _MOST_S

    def identify(self, slot: Slot) -> Content:
        if reason := self.why_late():
            return Content(None, reason)
        return partitions.examine_slot(self._source.path, slot)

    def map_slot(self, slot: Slot, content: Content, most: int) -> Mapped:
        if reason := content.reason or self.why_late():
            return contents.copied_whole(slot, content.fs, reason)
        return _map_slot(self._source, slot, content.fs, most)

    def map_volume(self, placed: PlacedVolume, most: int) -> MappedVolume:
        if reason := self.why_late():
            placed = replace(placed, reason=placed.reason or reason)
        return map_volume(self._source.path, placed, most)

    def why_late(self) -> str | None:
        """Return why nothing more is looked at, None while there is time."""
        if time.monotonic() < self._deadline:
            return None
        return "the maps of the others took %d s already" % _MOST_S


def _everything(source: Source, reason: str) -> UsedMap:
    LOG.warning("All of %(path)s is copied: %(reason)s", {"path": source.path, "reason": reason})
    everything = Extents([(0, source.size)])
    return UsedMap(everything, (), ("the whole disk is copied: %s" % reason,), everything)


def _together(source: Source, found: list[Mapped], *, edges: bool) -> UsedMap:
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
        tuple(itertools.chain.from_iterable(one.warnings for one in found)),
        unmapped,
    )


def _joined(parts: Iterable[Extents]) -> Extents:
    return Extents.covering(itertools.chain.from_iterable(parts))


def _map_slot(source: Source, slot: Slot, fs: str | None, most: int) -> Mapped:
    try:
        with partition_view(source.path, slot.start, slot.size) as view:
            found = contents.map_view(view, fs)
    except contents.FAILURES as exc:
        return contents.copied_whole(slot, fs, str(exc))
    used = Extents.covering(found.used, most).shifted(slot.start)
    behind = Extents([(slot.start + found.size, slot.size - found.size)])
    partition = Partition(
        slot.number, slot.start, slot.size, fs, used.total + behind.total, found.known_by,
        found.journal,
    )  # fmt: skip
    return Mapped(partition, used, behind)
