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
from ipa_snapshot.devices.file_systems.view import partition_view
from ipa_snapshot.devices.lvm.layout import PlacedVolume, read_layout
from ipa_snapshot.devices.lvm.volumes import MEMBER, MappedVolume, map_members, map_volume
from ipa_snapshot.devices.partitions import Partition, Slot
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
    if not slots and on_whole in _LIKE_A_TABLE:
        slots = None
    if slots is not None and on_whole is not None:
        return _everything(source, "both a partition table and %s on the whole disk" % on_whole)
    if slots is None and on_whole is None:
        return _everything(source, "neither a partition table nor a file system is recognised")
    found = _map_slots(source, slots or [whole], on_tick)
    return _together(source, found, edges=slots is not None)


def _map_slots(source: Source, slots: list[Slot], on_tick: Callable[[], None]) -> list[Mapped]:
    examined = _Examination(source)
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            names = [pool.submit(examined.identify, slot) for slot in slots]
            _await(names, on_tick)
            kinds = [(slot, name.result()) for slot, name in zip(slots, names, strict=True)]
            layout = read_layout(source, (slot for slot, fs in kinds if fs == MEMBER))
            most = 2 * MOST_RANGES // (len(slots) + len(layout.volumes))
            volumes = [pool.submit(examined.map_volume, one, most) for one in layout.volumes]
            others = [
                pool.submit(examined.map_slot, slot, fs, most) for slot, fs in kinds if fs != MEMBER
            ]
            _await([*volumes, *others], on_tick)
            members = map_members(layout, [volume.result() for volume in volumes])
            mapped = [*members, *(other.result() for other in others)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    by_start = {one.partition.start: one for one in mapped}
    return [by_start[slot.start] for slot in slots]


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

    def identify(self, slot: Slot) -> str | None:
        return None if self._is_late() else partitions.identify_slot(self._source.path, slot)

    def map_slot(self, slot: Slot, fs: str | None, most: int) -> Mapped:
        if reason := self._is_late():
            return contents.copied_whole(slot, fs, reason)
        return _map_slot(self._source, slot, fs, most)

    def map_volume(self, placed: PlacedVolume, most: int) -> MappedVolume:
        if reason := self._is_late():
            placed = replace(placed, reason=placed.reason or reason)
        return map_volume(self._source.path, placed, most)

    def _is_late(self) -> str | None:
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
