# SPDX-License-Identifier: Apache-2.0
"""What is used of physical volumes: what is used in their logical volumes, and no free extents.

Outside of its extents all of a physical volume counts: its label, its metadata, and what is left
at its end.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ipa_snapshot.devices import contents, partitions
from ipa_snapshot.devices.contents import Mapped
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import NotUnderstood
from ipa_snapshot.devices.lvm.layout import Layout, PlacedMember, PlacedVolume
from ipa_snapshot.devices.lvm.view import volume_view
from ipa_snapshot.devices.partitions import Partition, Volume

MEMBER = "LVM2_member"  # as blkid names a physical volume


@dataclass(frozen=True)
class MappedVolume:
    """A logical volume, with its used ranges from the disk's first byte.

    :param unmapped: what of them no file system vouches for.
    """

    placed: PlacedVolume
    row: Volume
    used: Extents
    unmapped: Extents
    warning: str | None = None


def map_volume(path: str, placed: PlacedVolume, most: int) -> MappedVolume:
    """Return what of a logical volume is used; whatever is in it, there is an answer.

    :param most: of how many ranges the answer is to be, about.
    """
    fs = None
    try:
        if placed.reason is not None:
            raise NotUnderstood(placed.reason)
        with volume_view(path, placed.pieces) as view:
            content = partitions.examine_view(view)
            fs = content.fs
            if content.reason is not None:
                raise NotUnderstood(content.reason)
            found = contents.map_view(view, fs)
    except contents.FAILURES as exc:
        return _whole(placed, fs, str(exc))
    used = Extents(on_disk(Extents.covering(found.used, most), placed.pieces))
    tail = Extents([(found.size, placed.size - found.size)])
    behind = Extents(on_disk(tail, placed.pieces))
    row = Volume(
        placed.name, placed.size, fs, used.total + behind.total, found.known_by, found.journal
    )
    return MappedVolume(placed, row, used.union(behind), behind)


def _whole(placed: PlacedVolume, fs: str | None, reason: str) -> MappedVolume:
    reason, warning = contents.tell_whole("volume " + placed.name, fs, reason)
    used = Extents(placed.pieces)
    row = Volume(placed.name, placed.size, fs, used.total, "copied whole: %s" % reason)
    return MappedVolume(placed, row, used, used, warning)


def on_disk(extents: Extents, pieces: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    """Yield where ranges of a volume lie on the disk, for a volume of the given pieces of it."""
    position = 0
    for start, length in pieces:
        yield from extents.clipped(position, length).shifted(-position).shifted(start)
        position += length


def map_members(layout: Layout, volumes: list[MappedVolume]) -> list[Mapped]:
    """Return what of each physical volume is used, from what is used of the volumes on them."""
    members = [_map_member(member, volumes) for member in layout.members]
    refused = [contents.copied_whole(slot, MEMBER, reason) for slot, reason in layout.refused]
    return members + refused


def _map_member(member: PlacedMember, volumes: list[MappedVolume]) -> Mapped:
    slot = member.slot
    in_volumes = Extents(itertools.chain.from_iterable(one.placed.pieces for one in volumes))
    outside = Extents([(slot.start, slot.size)]).without(in_volumes.union(member.free))
    used, unmapped = (
        outside.union(*(kind.clipped(slot.start, slot.size) for kind in kinds))
        for kinds in ([one.used for one in volumes], [one.unmapped for one in volumes])
    )
    # one on several physical volumes is told with the one where it begins
    mine = [one for one in volumes if slot.start <= one.placed.pieces[0][0] < slot.end]
    partition = Partition(
        slot.number, slot.start, slot.size, MEMBER, used.total,
        "LVM %s: %d volumes, %d free extents" % (member.group, member.volumes, member.free_extents),
        volumes=tuple(one.row for one in mine),
    )  # fmt: skip
    warnings = tuple(one.warning for one in mine if one.warning is not None)
    return Mapped(partition, used, unmapped, warnings)
