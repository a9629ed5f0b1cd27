# SPDX-License-Identifier: Apache-2.0
"""Where the volumes of a disk's volume groups lie on it, and which extents nobody has.

A group whose physical volumes are not of one mind, or whose volumes share an extent, is copied
whole. Physical volumes on other disks are missing here: so are parts of the volumes on them.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ipa_snapshot.devices.contents import FAILURES
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import NotUnderstood
from ipa_snapshot.devices.lvm.group import Area, Member, Volume, VolumeGroup, parse_group
from ipa_snapshot.devices.lvm.label import PhysicalVolume, read_physical_volume, read_texts
from ipa_snapshot.devices.partitions import Slot
from ipa_snapshot.devices.source import Source

# Each is a row of the result, which has to stay small.
_MOST_VOLUMES = 128
# Of all physical volumes together. Those of a group hold one text, and each counts once: 128 of a
# group come to some 50 KiB. Parsing a MiB takes seconds, and 256 of them took 4 GB.
_MOST_TEXT = 8 * 1024 * 1024
_MOST_AREAS = 200_000


@dataclass(frozen=True)
class PlacedVolume:
    """A logical volume, and what of it lies on this disk.

    :param name: with its group's.
    :param size: in bytes, parts on other disks included.
    :param pieces: ``(start, length)`` on the disk in bytes, as they follow in the volume; not
        empty. All of the volume, if there is no ``reason``.
    :param reason: why it is copied whole.
    """

    name: str
    size: int
    pieces: tuple[tuple[int, int], ...]
    reason: str | None


@dataclass(frozen=True)
class PlacedMember:
    """A physical volume on this disk.

    :param group: the name of its volume group.
    :param free: what of the disk are extents of it that no volume has.
    :param free_extents: their number.
    :param volumes: how many volumes have extents on it.
    """

    slot: Slot
    group: str
    free: Extents
    free_extents: int
    volumes: int


@dataclass(frozen=True)
class Layout:
    """What LVM has on a disk.

    :param refused: the physical volumes of which nothing can be said, and why.
    """

    members: tuple[PlacedMember, ...]
    volumes: tuple[PlacedVolume, ...]
    refused: tuple[tuple[Slot, str], ...]


@dataclass(frozen=True)
class _Found:
    """A physical volume, with the groups that its own metadata areas describe.

    :param uuids: its own, and all that those groups name.
    """

    slot: Slot
    header: PhysicalVolume
    groups: tuple[VolumeGroup, ...]
    uuids: frozenset[str]


class _TooMuch(Exception):
    """What all physical volumes hold takes too much memory or time; the message says which."""


class _Texts:
    """Parses each text once, and not more of them than there is memory and time for."""

    def __init__(self, why_stop: Callable[[], str | None]) -> None:
        self._why_stop = why_stop
        self._known: dict[str, VolumeGroup | NotUnderstood] = {}
        self._length = self._areas = 0

    def parse(self, text: str) -> VolumeGroup:
        """Return the group that a text describes.

        :raises: NotUnderstood, _TooMuch
        """
        if reason := self._why_stop():
            raise _TooMuch(reason)
        if text not in self._known:
            self._known[text] = self._parse(text)
        found = self._known[text]
        if isinstance(found, NotUnderstood):
            raise NotUnderstood(str(found))
        return found

    def _parse(self, text: str) -> VolumeGroup | NotUnderstood:
        self._length += len(text)
        if self._length > _MOST_TEXT:
            raise _TooMuch("LVM has more than %d bytes of metadata on this disk" % _MOST_TEXT)
        try:
            group = parse_group(text)
        except FAILURES as exc:
            return NotUnderstood(str(exc))
        self._areas += sum(len(volume.areas) for volume in group.volumes)
        if self._areas > _MOST_AREAS:
            raise _TooMuch("LVM's volumes have more than %d parts on this disk" % _MOST_AREAS)
        return group


def read_layout(
    source: Source, slots: Iterable[Slot], why_stop: Callable[[], str | None] = lambda: None
) -> Layout:
    """Read the physical volumes in some partitions; whatever is on them, there is an answer.

    Where that is too much, all are refused: those not read may contradict those that were.

    :param why_stop: gives a reason not to go on, or None.
    """
    slots = list(slots)
    try:
        found, refused = _find_all(source, slots, _Texts(why_stop))
    except _TooMuch as exc:
        return Layout((), (), tuple((slot, str(exc)) for slot in slots))
    members: list[PlacedMember] = []
    volumes: list[PlacedVolume] = []
    for parts in _by_group(found):
        try:
            group = _agreed(parts)
            placed = _place_volumes(group, parts)
            if len(volumes) + len(placed) > _MOST_VOLUMES:
                raise NotUnderstood("more than %d logical volumes" % _MOST_VOLUMES)
            placed_members = [_place_member(group, part) for part in parts]
        except FAILURES as exc:
            refused += [(part.slot, str(exc)) for part in parts]
        else:
            members += placed_members
            volumes += placed
    return Layout(tuple(members), tuple(volumes), tuple(refused))


def _find_all(
    source: Source, slots: list[Slot], texts: _Texts
) -> tuple[list[_Found], list[tuple[Slot, str]]]:
    """Return what was found, and the physical volumes that are refused, and why.

    :raises: _TooMuch
    """
    headers: list[tuple[Slot, PhysicalVolume]] = []
    found: list[_Found] = []
    refused: list[tuple[Slot, str]] = []
    for slot in slots:
        try:
            headers.append((slot, read_physical_volume(source.fd, slot.start, slot.size)))
        except FAILURES as exc:
            refused.append((slot, str(exc)))
    uses = Counter(header.uuid for _slot, header in headers)
    for slot, header in headers:
        if uses[header.uuid] > 1:
            # Its group is refused for that, whatever its text says.
            found.append(_Found(slot, header, (), frozenset({header.uuid})))
            continue
        try:
            found.append(_find(source, slot, header, texts))
        except FAILURES as exc:
            refused.append((slot, str(exc)))
    return found, refused


def _find(source: Source, slot: Slot, header: PhysicalVolume, texts: _Texts) -> _Found:
    groups = tuple(map(texts.parse, read_texts(source.fd, slot.start, header)))
    members = {member.uuid for group in groups for member in group.members}
    return _Found(slot, header, groups, frozenset(members | {header.uuid}))


def _by_group(found: list[_Found]) -> Iterator[list[_Found]]:
    """Return the physical volumes that have to do with each other, through whatever they say."""
    together: list[tuple[set[str], list[_Found]]] = []
    for part in found:
        uuids, parts = set(part.uuids), [part]
        apart = []
        for others in together:
            if others[0].isdisjoint(uuids):
                apart.append(others)
            else:
                uuids |= others[0]
                parts = others[1] + parts
        together = [*apart, (uuids, parts)]
    return (parts for _uuids, parts in together)


def _agreed(parts: list[_Found]) -> VolumeGroup:
    """Return the one group that all metadata of these physical volumes describes."""
    if len({part.header.uuid for part in parts}) < len(parts):
        raise NotUnderstood("two physical volumes have the same uuid")
    # One object for each text: to compare 256 groups of 100,000 areas, or their hashes, takes long.
    groups = list({id(group): group for part in parts for group in part.groups}.values())
    if not groups:
        raise NotUnderstood("the metadata of its volume group is not on this disk")
    group = groups[0]
    if any(other != group for other in groups):
        raise NotUnderstood("its metadata areas contradict each other")
    by_uuid = {member.uuid: member for member in group.members}
    for part in parts:
        member = by_uuid.get(part.header.uuid)
        if member is None:
            raise NotUnderstood("it is not in the volume group %s that it names" % group.name)
        _check_fits(part, member, group.extent_size)
    return group


def _check_fits(part: _Found, member: Member, extent_size: int) -> None:
    length = member.extents * extent_size
    if member.data != part.header.data:
        raise NotUnderstood("%s and its label name different beginnings" % member.name)
    if member.data + length > part.slot.size:
        raise NotUnderstood("%s is larger than its partition" % member.name)
    if part.header.metadata_areas.clipped(member.data, length):
        raise NotUnderstood("%s has metadata among its extents" % member.name)


def _starts(group: VolumeGroup, parts: list[_Found]) -> dict[str, int]:
    """Return where on the disk the extents of the group's members begin, by the members' names."""
    names = {member.uuid: member.name for member in group.members}
    return {names[part.header.uuid]: part.slot.start + part.header.data for part in parts}


def _place_volumes(group: VolumeGroup, parts: list[_Found]) -> list[PlacedVolume]:
    starts = _starts(group, parts)
    _refuse_shared(group)
    placed = []
    for volume in group.volumes:
        here = [area for area in volume.areas if area.member in starts]
        reason = volume.reason
        if len(here) < len(volume.areas):
            reason = reason or "a part of it is on another disk"
        pieces = tuple(_pieces(here, starts, group.extent_size))
        if pieces:
            name = "%s/%s" % (group.name, volume.name)
            placed.append(PlacedVolume(name, volume.extents * group.extent_size, pieces, reason))
    return placed


def _pieces(
    areas: list[Area], starts: dict[str, int], extent_size: int
) -> Iterator[tuple[int, int]]:
    """Yield where areas lie on the disk, with those that follow each other as one."""
    start = length = 0
    for area in areas:
        next_start = starts[area.member] + area.start * extent_size
        if length and next_start == start + length:
            length += area.length * extent_size
            continue
        if length:
            yield start, length
        start, length = next_start, area.length * extent_size
    if length:
        yield start, length


def _refuse_shared(group: VolumeGroup) -> None:
    """Refuse a group in which an extent is of two volumes, or twice of one."""
    areas = sorted(
        (area.member, area.start, area.start + area.length, volume.name)
        for volume in group.volumes
        for area in volume.areas
    )
    for before, after in itertools.pairwise(areas):
        if before[0] == after[0] and after[1] < before[2]:
            raise NotUnderstood("%s and %s share extents" % (before[3], after[3]))


def _on(volume: Volume, member: Member) -> Iterator[Area]:
    return (area for area in volume.areas if area.member == member.name)


def _place_member(group: VolumeGroup, part: _Found) -> PlacedMember:
    (member,) = (member for member in group.members if member.uuid == part.header.uuid)
    start, size = part.slot.start + member.data, group.extent_size
    mine = [list(_on(volume, member)) for volume in group.volumes]
    taken = Extents((area.start, area.length) for areas in mine for area in areas)
    free = taken.complement(member.extents)
    return PlacedMember(
        part.slot,
        group.name,
        Extents((start + first * size, count * size) for first, count in free),
        free.total,
        sum(map(bool, mine)),
    )
