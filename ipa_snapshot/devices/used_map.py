# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a disk matter: those that its file systems use, and all that is unknown.

Only what is understood is skipped. Everything outside partitions (boot loaders, the tables, the
backup GPT) is in the map, and so is the whole of a partition whose file system is unknown, has
features that we do not know, or whose tool fails; the reason is recorded.
"""

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from oslo_log import log

from ipa_snapshot.devices import contents, partitions
from ipa_snapshot.devices.contents import Mapped
from ipa_snapshot.devices.extents import MOST_RANGES, Extents
from ipa_snapshot.devices.file_systems.view import partition_view
from ipa_snapshot.devices.lvm.layout import read_layout
from ipa_snapshot.devices.lvm.volumes import MEMBER, map_members, map_volume
from ipa_snapshot.devices.partitions import Partition, Slot
from ipa_snapshot.devices.source import Source

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


def map_disk(source: Source) -> UsedMap:
    """Return what of the disk is to be copied; whatever is wrong with the disk, there is a map."""
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
    found = _map_slots(source, slots or [whole])
    return _together(source, found, edges=slots is not None)


def _map_slots(source: Source, slots: list[Slot]) -> list[Mapped]:
    with ThreadPoolExecutor(_THREADS) as pool:
        names = list(pool.map(lambda slot: partitions.identify_slot(source.path, slot), slots))
        kinds = list(zip(slots, names, strict=True))
        layout = read_layout(source, (slot for slot, fs in kinds if fs == MEMBER))
        most = 2 * MOST_RANGES // (len(slots) + len(layout.volumes))
        volumes = pool.map(lambda volume: map_volume(source.path, volume, most), layout.volumes)
        others = pool.map(
            lambda kind: _map_slot(source, kind[0], kind[1], most),
            (kind for kind in kinds if kind[1] != MEMBER),
        )
        mapped = [*map_members(layout, list(volumes)), *others]
    by_start = {one.partition.start: one for one in mapped}
    return [by_start[slot.start] for slot in slots]


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
