# SPDX-License-Identifier: Apache-2.0
"""A volume group, from the text of its metadata: which extents each of its volumes has.

Understood is a volume whose every segment is ``striped`` with one stripe on a physical volume. Of
every other the extents are known, and why it is not understood. Where not even the extents are
certain (a type of segment that LVM 2.03 does not have, a contradiction), the group is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ipa_snapshot.devices.file_systems.base import NotUnderstood
from ipa_snapshot.devices.lvm import text
from ipa_snapshot.devices.lvm.text import Section

_SECTOR = 512
_MOST = (1 << 32) - 1  # LVM counts extents in 32 bits
_MOST_MEMBERS = 256
_SEGMENT = re.compile(r"segment[1-9][0-9]*")
_GROUP_VALUES = (
    "id", "seqno", "format", "status", "flags", "tags", "system_id", "lock_type", "extent_size",
    "max_lv", "max_pv", "allocation_policy", "profile", "metadata_copies",
)  # fmt: skip
_GROUP_SECTIONS = frozenset({"physical_volumes", "logical_volumes", "historical_logical_volumes"})
_GROUP_STATUS = frozenset({"RESIZEABLE", "READ", "WRITE", "WRITE_LOCKED", "NOAUTOACTIVATE"})
_MEMBER_VALUES = (
    "id", "device", "device_id", "device_id_type", "status", "flags", "tags", "dev_size",
    "pe_start", "pe_count",
)  # fmt: skip
_VOLUME_VALUES = (
    "id", "status", "flags", "tags", "creation_time", "creation_host", "allocation_policy",
    "profile", "read_ahead", "major", "minor", "segment_count",
)  # fmt: skip
_VOLUME_STATUS = frozenset(
    {"READ", "WRITE", "WRITE_LOCKED", "VISIBLE", "FIXED_MINOR", "ACTIVATION_SKIP",
     "NOAUTOACTIVATE"}
)  # fmt: skip
_LINEAR_VALUES = ("start_extent", "extent_count", "type", "tags", "stripe_count", "stripes")
_COUNTS = {"stripes": "stripe_count", "mirrors": "mirror_count"}
# LVM 2.03's `lvm segtypes`. They name extents of physical volumes under "stripes" and "mirrors" (a
# pvmove) alone, and otherwise other volumes; raid* is raid0 to raid10 with all its layouts.
_TYPES = re.compile(
    r"striped|linear|mirror|snapshot|thin-pool|thin|cache-pool|cache|vdo-pool|vdo|writecache"
    r"|integrity|error|zero|raid[0-9a-z_]+"
)


@dataclass(frozen=True)
class Member:
    """A physical volume as its group knows it; ``data`` in bytes, ``uuid`` without dashes."""

    name: str
    uuid: str
    data: int
    extents: int


@dataclass(frozen=True, slots=True)
class Area:
    """A run of extents of a physical volume; a group may have 100,000."""

    member: str
    start: int
    length: int


@dataclass(frozen=True)
class Volume:
    """A logical volume of so many ``extents``, and where they are.

    :param areas: all that it has on physical volumes; in order, where it is linear.
    :param reason: why it is not understood, None if it is linear.
    """

    name: str
    extents: int
    areas: tuple[Area, ...]
    reason: str | None


@dataclass(frozen=True)
class VolumeGroup:
    """A volume group; ``extent_size`` in bytes."""

    name: str
    uuid: str
    seqno: int
    extent_size: int
    members: tuple[Member, ...]
    volumes: tuple[Volume, ...]


def parse_group(content: str) -> VolumeGroup:
    """Return the volume group of a metadata text.

    :raises: NotUnderstood
    """
    file = text.parse(content)
    if file.text("contents") != "Text Format Volume Group" or file.number("version", 0, 9) != 1:
        raise NotUnderstood("LVM's metadata is of another version")
    if len(file.sections) != 1:
        raise NotUnderstood("LVM's metadata has %d volume groups" % len(file.sections))
    (group,) = file.sections.values()
    _refuse_unknown(group)
    extent_size = group.number("extent_size", 1, _MOST) * _SECTOR
    members = tuple(_members(group.sections["physical_volumes"]))
    volumes = group.sections.get("logical_volumes", Section("", {}, {}))
    return VolumeGroup(
        group.name,
        _uuid(group),
        group.number("seqno", 0, _MOST),
        extent_size,
        members,
        tuple(_volumes(volumes, {member.name: member for member in members})),
    )


def _refuse_unknown(group: Section) -> None:
    group.only(*_GROUP_VALUES)
    _refuse_status(group, _GROUP_STATUS)
    if group.values.get("lock_type", "none") != "none":
        raise NotUnderstood("the volume group is shared with other machines")
    if strange := sorted(group.sections.keys() - _GROUP_SECTIONS):
        raise NotUnderstood("%s has an unknown section %s" % (group.name, strange[0]))
    pvs = group.sections.get("physical_volumes")
    if pvs is None or not 0 < len(pvs.sections) <= _MOST_MEMBERS:
        raise NotUnderstood("%s has too many physical volumes, or none" % group.name)


def _refuse_status(section: Section, known: frozenset[str]) -> None:
    # EXPORTED and CLUSTERED groups, MISSING physical volumes: others may have had a hand in them
    if strange := sorted(section.words("status", "flags") - known):
        raise NotUnderstood("%s is %.40s" % (section.name, strange[0]))


def _uuid(section: Section) -> str:
    return section.text("id").replace("-", "")


def _members(section: Section) -> Iterator[Member]:
    seen = set()
    for pv in section.sections.values():
        pv.only(*_MEMBER_VALUES)
        _refuse_status(pv, frozenset({"ALLOCATABLE"}))
        uuid = _uuid(pv)
        if uuid in seen:
            raise NotUnderstood("a physical volume is twice in its group")
        seen.add(uuid)
        data = pv.number("pe_start", 1, 1 << 54) * _SECTOR
        yield Member(pv.name, uuid, data, pv.number("pe_count", 0, _MOST))


def _volumes(section: Section, members: dict[str, Member]) -> Iterator[Volume]:
    names = frozenset(section.sections)
    # The origin of a snapshot, the data of a pool: whatever another volume is made of is read by
    # other rules than those of a file system in it.
    parts = names & {word for lv in section.sections.values() for word in _mentioned(lv)}
    for lv in section.sections.values():
        segments = _segments(lv)
        areas: list[Area] = []
        for segment in segments:
            areas += _areas(segment, members, names)
        extents = sum(segment.number("extent_count", 1, _MOST) for segment in segments)
        yield Volume(lv.name, extents, tuple(areas), _why_strange(lv, segments, parts, members))


def _mentioned(lv: Section) -> Iterator[str]:
    for segment in lv.sections.values():
        for name, value in segment.values.items():
            if name != "type":
                yield from map(str, value if isinstance(value, tuple) else (value,))


def _segments(lv: Section) -> list[Section]:
    """Return the segments in order.

    :raises: NotUnderstood when they leave a gap, overlap, or are not all.
    """
    if not all(map(_SEGMENT.fullmatch, lv.sections)):
        raise NotUnderstood("%s has an unknown section" % lv.name)
    segments = sorted(
        lv.sections.values(), key=lambda segment: segment.number("start_extent", 0, _MOST)
    )
    if len(segments) != lv.number("segment_count", 0, _MOST):
        raise NotUnderstood("not all segments of %s are there" % lv.name)
    end = 0
    for segment in segments:
        if segment.number("start_extent", 0, _MOST) != end:
            raise NotUnderstood("segments of %s leave a gap or overlap" % lv.name)
        end += segment.number("extent_count", 1, _MOST)
    return segments


def _areas(segment: Section, members: dict[str, Member], volumes: frozenset[str]) -> Iterator[Area]:
    """Yield what a segment has on physical volumes."""
    kind = segment.text("type").partition("+")[0]
    if not _TYPES.fullmatch(kind) or segment.sections:
        raise NotUnderstood("a segment of the unknown type %.40s" % kind)
    for items_name, count_name in _COUNTS.items():
        if count_name in segment.values and not segment.items(items_name):
            raise NotUnderstood("a segment with %s, and no %s" % (count_name, items_name))
    length = segment.number("extent_count", 1, _MOST)
    for name, value in segment.values.items():
        items = value if isinstance(value, tuple) else (value,)
        if name in _COUNTS:
            count = segment.number(_COUNTS[name], 1, _MOST)
            if len(items) != 2 * count or (name == "stripes" and length % count):
                raise NotUnderstood("a segment with the wrong number of %s" % name)
            each = length // count if name == "stripes" else length
            yield from _pairs(items, each, members, volumes)
        elif name not in {"type", "tags"} and not members.keys().isdisjoint(map(str, items)):
            raise NotUnderstood("a segment that names a physical volume as its %.40s" % name)


def _pairs(
    items: tuple[text.Scalar, ...], length: int, members: dict[str, Member],
    volumes: frozenset[str],
) -> Iterator[Area]:  # fmt: skip
    for name, start in zip(items[::2], items[1::2], strict=True):
        if not isinstance(name, str) or not isinstance(start, int):
            raise NotUnderstood("a segment at %.40r, %.40r" % (name, start))
        member = members.get(name)
        if member is not None:
            if not 0 <= start <= member.extents - length:
                raise NotUnderstood("a segment beyond the end of %s" % name)
            yield Area(name, start, length)
        elif name not in volumes:
            raise NotUnderstood("a segment on %.40s, which is not there" % name)


def _why_strange(
    lv: Section, segments: list[Section], parts: frozenset[str], members: dict[str, Member]
) -> str | None:
    """Tell why a volume is not a linear one that holds what it seems to hold."""
    status = lv.words("status", "flags")
    types = sorted({segment.text("type") for segment in segments} - {"striped", "linear"})
    if types:
        return "of type %s" % ", ".join(types)
    if lv.name in parts:
        return "a part of another volume"
    if "VISIBLE" not in status:
        return "a hidden volume"
    if strange := sorted(status - _VOLUME_STATUS) or sorted(lv.values.keys() - {*_VOLUME_VALUES}):
        return "it has an unknown %.40s" % strange[0]
    return next(filter(None, (_why_not_linear(segment, members) for segment in segments)), None)


def _why_not_linear(segment: Section, members: dict[str, Member]) -> str | None:
    if segment.values.get("stripe_count") != 1:
        return "striped"
    if segment.values.keys() - {*_LINEAR_VALUES}:
        return "a segment with unknown values"
    return None if segment.items("stripes")[0] in members else "it lies on another volume"
