# SPDX-License-Identifier: Apache-2.0
"""What is taken from LVM's metadata, and what is refused."""

import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import NoReturn

import pytest

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import NotUnderstood
from ipa_snapshot.devices.lvm import layout, text
from ipa_snapshot.devices.lvm.group import parse_group
from ipa_snapshot.devices.lvm.label import checksum
from ipa_snapshot.devices.lvm.layout import Layout, read_layout
from ipa_snapshot.devices.lvm.view import describe
from ipa_snapshot.devices.lvm.volumes import on_disk
from ipa_snapshot.devices.partitions import Slot
from ipa_snapshot.devices.source import open_source

MIB = 1024 * 1024
EXTENT = 4 * MIB
SIZE = 64 * MIB
UUIDS = ("A" * 32, "B" * 32)


def linear(*runs: tuple[str, int, int], status: str = '"READ", "WRITE", "VISIBLE"') -> str:
    """Describe a linear volume: (physical volume, its first extent, number of extents)."""
    lines = ['id = "x"', "status = [%s]" % status, "segment_count = %d" % len(runs)]
    start = 0
    for number, (member, first, count) in enumerate(runs, 1):
        lines.append(
            'segment%d { start_extent = %d extent_count = %d type = "striped" stripe_count = 1 '
            'stripes = ["%s", %d] }' % (number, start, count, member, first)
        )
        start += count
    return "\n".join(lines)


def group_text(
    volumes: dict[str, str], members: tuple[str, ...] = UUIDS[:1], more: str = ""
) -> str:
    pvs = "\n".join(
        'pv%d { id = "%s" status = ["ALLOCATABLE"] pe_start = 2048 pe_count = 15 }' % (number, uuid)
        for number, uuid in enumerate(members)
    )
    lvs = "\n".join("%s {\n%s\n}" % item for item in volumes.items())
    return """vg { # a comment
        id = "G"
        seqno = 1
        status = ["RESIZEABLE", "READ", "WRITE"]
        extent_size = 8192
        %s
        physical_volumes {\n%s\n}
        logical_volumes {\n%s\n}
    }
    contents = "Text Format Volume Group"
    version = 1
    """ % (more, pvs, lvs)


def physical_volume(content: str | None, uuid: str = UUIDS[0], offset: int = 512) -> bytes:
    """Return the first MiB of a physical volume, its metadata at an offset of its area."""
    area_size = MIB - 4096
    label = struct.pack("<I8s32sQQQQQQQQQII", 32, b"LVM2 001", uuid.encode(), SIZE,
                        MIB, 0, 0, 0, 4096, area_size, 0, 0, 2, 1).ljust(492, b"\0")  # fmt: skip
    label = struct.pack("<8sQI", b"LABELONE", 1, checksum(label)) + label
    raw = b"" if content is None else content.encode() + b"\0"
    place = (offset, len(raw), checksum(raw), 0) if raw else (0, 0, 0, 0)
    header = struct.pack("<16sIQQQQII", b" LVM2 x[5A%r0N*>", 1, 4096, area_size, *place)
    header = header.ljust(508, b"\0")
    area = bytearray(area_size)
    area[:512] = struct.pack("<I", checksum(header)) + header
    first = area_size - offset
    area[offset : offset + len(raw)] = raw[:first]
    area = area[:area_size]
    area[512 : 512 + len(raw[first:])] = raw[first:]
    return (bytes(512) + label).ljust(4096, b"\0") + bytes(area)


def layout_of(path: Path, *begins: bytes) -> Layout:
    """Read physical volumes that lie one behind the other."""
    with path.open("wb") as disk:
        for number, begin in enumerate(begins):
            disk.seek(number * SIZE)
            disk.write(begin)
        disk.truncate(len(begins) * SIZE)
    slots = [Slot(number + 1, number * SIZE, SIZE) for number in range(len(begins))]
    with open_source(str(path)) as source:
        return read_layout(source, slots)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


def test_a_linear_volume_lies_where_its_segments_say(disk: Path) -> None:
    volumes = {"root": linear(("pv0", 3, 2), ("pv0", 5, 1), ("pv0", 0, 1))}
    layout = layout_of(disk, physical_volume(group_text(volumes)))
    (volume,) = layout.volumes
    assert (volume.name, volume.size, volume.reason) == ("vg/root", 4 * EXTENT, None)
    assert volume.pieces == ((MIB + 3 * EXTENT, 3 * EXTENT), (MIB, EXTENT))
    (member,) = layout.members
    assert member.free == Extents([(MIB + EXTENT, 2 * EXTENT), (MIB + 6 * EXTENT, 9 * EXTENT)])
    assert (member.free_extents, member.volumes, layout.refused) == (11, 1, ())


def test_metadata_that_goes_on_at_the_beginning_of_its_area_is_read(disk: Path) -> None:
    begin = physical_volume(group_text({}), offset=MIB - 4096 - 512)
    assert layout_of(disk, begin).members[0].free_extents == 15


def test_a_volume_without_metadata_of_its_own_is_known_by_the_other(disk: Path) -> None:
    content = group_text({"root": linear(("pv0", 0, 1), ("pv1", 0, 1))}, UUIDS)
    layout = layout_of(disk, physical_volume(content), physical_volume(None, UUIDS[1]))
    assert [member.free_extents for member in layout.members] == [14, 14]
    assert layout.volumes[0].pieces == ((MIB, EXTENT), (SIZE + MIB, EXTENT))


def test_a_volume_of_which_a_part_is_missing_has_a_reason(disk: Path) -> None:
    content = group_text({"root": linear(("pv1", 0, 1), ("pv0", 7, 1))}, UUIDS)
    (volume,) = layout_of(disk, physical_volume(content)).volumes
    assert volume.reason == "a part of it is on another disk"
    assert (volume.pieces, volume.size) == (((MIB + 7 * EXTENT, EXTENT),), 2 * EXTENT)


STRANGE = {
    "a hidden volume": linear(("pv0", 0, 1), status='"READ", "WRITE"'),
    "it has an unknown LOCKED": linear(("pv0", 0, 1), status='"VISIBLE", "LOCKED"'),
    "it has an unknown novelty": linear(("pv0", 0, 1)) + "\nnovelty = 1",
    "of type raid1": linear(("pv0", 0, 1)).replace('"striped"', '"raid1"'),
    "of type striped+CROP_METADATA": linear(("pv0", 0, 1)).replace(
        '"striped"', '"striped+CROP_METADATA"'
    ),
    "striped": linear(("pv0", 0, 4)).replace("= 1 stripes", "= 2 stripes").replace(
        '["pv0", 0]', '["pv0", 0, "pv0", 2]'
    ),
    "a segment with unknown values": linear(("pv0", 0, 1)).replace("type", "x = 1 type"),
    "a part of another volume": linear(("pv0", 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("reason", STRANGE)
def test_a_volume_that_is_not_linear_keeps_its_extents_and_has_a_reason(
    disk: Path, reason: str
) -> None:
    volumes = {"one": STRANGE[reason]}
    if reason == "a part of another volume":
        volumes["two"] = (
            "status = [] segment_count = 1 segment1 { start_extent = 0 extent_count = 1 "
            'type = "snapshot" origin = "one" cow_store = "one" }'
        )
    layout = layout_of(disk, physical_volume(group_text(volumes)))
    (volume,) = layout.volumes
    assert volume.reason == reason
    assert (
        sum(length for _start, length in volume.pieces)
        == 15 * EXTENT - layout.members[0].free.total
    )
    assert layout.members[0].free_extents in {14, 11}


GOOD = linear(("pv0", 0, 2))
REFUSED = {
    "share extents": {"one": GOOD, "two": linear(("pv0", 1, 1))},
    "one and one share": {"one": linear(("pv0", 0, 2), ("pv0", 1, 2))},
    "beyond the end": {"one": linear(("pv0", 14, 2))},
    "gap or overlap": {"one": GOOD.replace("start_extent = 0", "start_extent = 1")},
    "not all segments": {"one": GOOD.replace("segment_count = 1", "segment_count = 2")},
    "unknown type": {"one": GOOD.replace('"striped"', '"novelty"')},
    "unknown section": {"one": GOOD.replace("segment1", "novelty")},
    "names a physical volume": {"one": GOOD.replace("type", 'novelty = ["pv0", 5] type')},
    "which is not there": {"one": GOOD.replace('"pv0"', '"pv9"')},
    "wrong number of stripes": {"one": GOOD.replace("stripe_count = 1", "stripe_count = 2")},
    "extent_count": {"one": GOOD.replace("extent_count = 2", "extent_count = 99999999999")},
    "stripe_count, and no stripes": {"one": GOOD.replace('stripes = ["pv0", 0]', "")},
    "mirror_count, and no mirrors": {
        "one": GOOD.replace("stripe_count", "mirror_count").replace('stripes = ["pv0", 0]', "")
    },
    "more than 128": {"lv%d" % number: linear(("pv0", number, 1)) for number in range(129)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_group_that_contradicts_itself_is_refused(disk: Path, reason: str) -> None:
    content = group_text(REFUSED[reason])
    if reason == "more than 128":
        content = content.replace("8192", "128").replace("pe_count = 15", "pe_count = 900")
    layout = layout_of(disk, physical_volume(content))
    assert (layout.members, layout.volumes) == ((), ())
    ((slot, said),) = layout.refused
    assert slot.number == 1
    assert reason in said


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"RESIZEABLE"', '"EXPORTED"', "vg is EXPORTED"),
        ('"RESIZEABLE"', '"CLUSTERED"', "vg is CLUSTERED"),
        ("seqno", 'lock_type = "sanlock" seqno', "shared with other machines"),
        ("seqno", "novelty = 1 seqno", "unknown novelty"),
        ('"ALLOCATABLE"', '"ALLOCATABLE"] flags = ["MISSING"', "pv0 is MISSING"),
        ("pe_start = 2048", "pe_start = 4096", "different beginnings"),
        ("pe_count = 15", "pe_count = 16", "larger than its partition"),
        ("extent_size = 8192", "extent_size = 0", "extent_size"),
        ("version = 1", "version = 2", "another version"),
        (UUIDS[0], UUIDS[1], "not in the volume group"),
        ("physical_volumes", "physical_novelty", "unknown section"),
    ],
)
def test_a_group_that_is_not_understood_is_refused(
    disk: Path, old: str, new: str, reason: str
) -> None:
    content = group_text({"one": GOOD})
    assert old in content
    layout = layout_of(disk, physical_volume(content.replace(old, new)))
    assert (layout.members, layout.volumes) == ((), ())
    assert reason in layout.refused[0][1]


def test_what_a_parser_trips_over_is_refused(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*_: object) -> NoReturn:
        raise IndexError("tuple index out of range")

    begin = physical_volume(group_text({"one": GOOD}))
    for name in ("parse_group", "_place_member", "read_physical_volume"):
        with monkeypatch.context() as patch:
            patch.setattr(layout, name, trip)
            found = layout_of(disk, begin)
        assert (found.members, found.volumes) == ((), ())
        assert "out of range" in found.refused[0][1]


def test_physical_volumes_of_two_minds_are_all_refused(disk: Path) -> None:
    contents = [group_text({"one": linear(("pv0", first, 1))}, UUIDS) for first in (0, 1)]
    begins = [physical_volume(content, uuid) for content, uuid in zip(contents, UUIDS, strict=True)]
    layout = layout_of(disk, *begins)
    assert [(slot.number, "contradict" in said) for slot, said in layout.refused] == [
        (1, True), (2, True),
    ]  # fmt: skip


def test_two_groups_that_have_nothing_in_common_are_both_understood(disk: Path) -> None:
    one = physical_volume(group_text({"one": GOOD}))
    other = physical_volume(
        group_text({"two": GOOD}, UUIDS[1:]).replace('"G"', '"H"').replace("vg {", "wg {"), UUIDS[1]
    )
    layout = layout_of(disk, one, other)
    assert [volume.name for volume in layout.volumes] == ["vg/one", "wg/two"]
    assert layout.refused == ()


@pytest.mark.parametrize(
    ("place", "content", "reason"),
    [
        (530, b"\x21", "label that is damaged"),
        (512, b"X", "0 valid LVM labels"),
        (4200, b"\x01", "checksum of an LVM metadata area"),
        (4096 + 600, b"\x01", "checksum of LVM's metadata"),
    ],
)
def test_what_is_damaged_is_refused(disk: Path, place: int, content: bytes, reason: str) -> None:
    begin = bytearray(physical_volume(group_text({"one": GOOD})))
    begin[place : place + len(content)] = content
    assert reason in layout_of(disk, bytes(begin)).refused[0][1]


def test_a_label_in_two_sectors_and_an_unfinished_change_are_refused(disk: Path) -> None:
    begin = bytearray(physical_volume(group_text({})))
    struct.pack_into("<QQ", begin, 4096 + 64, 1024, 100)  # the precommitted place
    struct.pack_into("<I", begin, 4096, checksum(bytes(begin[4100 : 4096 + 512])))
    assert "was begun and not finished" in layout_of(disk, bytes(begin)).refused[0][1]
    begin = bytearray(physical_volume(group_text({})))
    begin[1024:1536] = begin[512:1024]
    struct.pack_into("<Q", begin, 1032, 2)
    assert "2 valid LVM labels" in layout_of(disk, bytes(begin)).refused[0][1]


def test_of_128_physical_volumes_of_a_group_each_is_understood(disk: Path) -> None:
    uuids = tuple("%032d" % number for number in range(128))
    volumes = {"lv%d" % number: linear(("pv%d" % number, 0, 3)) for number in range(128)}
    content = group_text(volumes, uuids)
    # as of an LVM that notes for each the second in which it was written
    begins = [
        physical_volume("creation_time = %d\n%s" % (number, content), uuid)
        for number, uuid in enumerate(uuids)
    ]
    began = time.monotonic()
    found = layout_of(disk, *begins)
    print("128 physical volumes: %.1f s" % (time.monotonic() - began))
    assert (len(found.members), len(found.volumes), found.refused) == (128, 128, ())


def _of_many_areas(name: str, uuid: str, count: int) -> bytes:
    """Return a physical volume whose volume has many areas, in a text of nearly a MiB."""
    stripes = ",".join(['"p",0'] * count)
    content = group_text(
        {"one": "id = 1 status = [] segment_count = 1 segment1 { start_extent = 0 extent_count = "
         '%d type = "striped" stripe_count = %d stripes = [%s] }' % (count, count, stripes)},
        (uuid,), more="# " + name,
    )  # fmt: skip
    return physical_volume(content.replace("pv0 {", "p {"), uuid)


def test_not_more_is_parsed_than_there_is_memory_for(disk: Path) -> None:
    begins = [_of_many_areas(str(number), "%032d" % number, 90_000) for number in range(20)]
    began = time.monotonic()
    tracemalloc.start()
    found = layout_of(disk, *begins)
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print("%.0f MB, %.1f s" % (most / 1e6, time.monotonic() - began))
    assert (found.members, found.volumes) == ((), ())
    assert {said for _slot, said in found.refused} == {
        "LVM's volumes have more than 200000 parts on this disk"
    }
    assert len(found.refused) == 20
    assert most < 300e6


def test_not_more_text_is_parsed_than_there_is_time_for(disk: Path) -> None:
    noise = "# %s\n" % ("x" * 1_000_000)
    begins = [
        physical_volume(noise + "# %d\n" % number + group_text({}, (uuid,)), uuid)
        for number, uuid in enumerate("%032d" % number for number in range(9))
    ]
    found = layout_of(disk, *begins)
    assert {said for _slot, said in found.refused} == {
        "LVM has more than 8388608 bytes of metadata on this disk"
    }
    assert layout_of(disk, *begins[:8]).refused == ()


def test_a_text_that_is_refused_is_parsed_once(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def parse(content: str) -> NoReturn:
        parsed.append(content)
        raise NotUnderstood("noise")

    monkeypatch.setattr(layout, "parse_group", parse)
    begins = [physical_volume("noise", "%032d" % number) for number in range(9)]
    assert len(layout_of(disk, *begins).refused) == 9
    assert len(parsed) == 1


def test_what_has_the_uuid_of_another_is_not_parsed(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = group_text({"root": linear(("pv0", 0, 1), ("pv1", 0, 1))}, UUIDS)
    begins = [physical_volume(content, uuid) for uuid in (UUIDS[0], UUIDS[1], UUIDS[0])]
    found = layout_of(disk, *begins)
    assert {said for _slot, said in found.refused} == {"two physical volumes have the same uuid"}
    assert sorted(slot.number for slot, _said in found.refused) == [1, 2, 3]
    monkeypatch.setattr(layout, "parse_group", lambda _content: pytest.fail("parsed"))
    assert len(layout_of(disk, begins[0], begins[2]).refused) == 2


def test_where_no_time_is_left_all_are_refused(disk: Path) -> None:
    begins = [physical_volume(group_text({}, (uuid,)), uuid) for uuid in UUIDS]
    asked: list[None] = []

    def why_stop() -> str | None:
        asked.append(None)
        return "it is late" if len(asked) > 1 else None

    layout_of(disk, *begins)
    with open_source(str(disk)) as source:
        found = read_layout(source, [Slot(1, 0, SIZE), Slot(2, SIZE, SIZE)], why_stop)
    assert (found.members, found.volumes) == ((), ())
    assert [(slot.number, said) for slot, said in found.refused] == [
        (1, "it is late"), (2, "it is late"),
    ]  # fmt: skip


def test_a_physical_volume_that_ends_too_early_is_refused(disk: Path) -> None:
    disk.write_bytes(physical_volume(group_text({}))[:4096])
    with open_source(str(disk)) as source:
        layout = read_layout(source, [Slot(1, 0, 4096), Slot(2, 3584, 512)])
    assert len(layout.refused) == 2


@pytest.mark.parametrize(
    "content",
    ["{", "}", "a", "a =", "a = [", "a = [1 2]", "a = [1,,2]", "a {", "a } {", 'a = "b', "a = b",
     "a = 1.5", "a = 010", "a = 1 a = 2", "a { } a = 1", "a = 99999999999999999999", "a = [[1]]",
     "a = 1 \0 b", "a {" * 20 + "}" * 20, "a = [" + "1," * 500000 + "1]"],
)  # fmt: skip
def test_what_lvm_does_not_write_is_refused(content: str) -> None:
    with pytest.raises(NotUnderstood):
        text.parse(content)


def test_strings_lists_and_comments_are_read() -> None:
    section = text.parse('a = "x \\"y\\" # z" # b = 1\nc = [1, -2, "d",\n]\n7 { e = [] }')
    assert section.values == {"a": 'x "y" # z', "c": (1, -2, "d")}
    assert section.sections["7"].items("e") == ()


def test_noise_is_refused() -> None:
    for _ in range(50):
        with pytest.raises(NotUnderstood):
            parse_group(os.urandom(200).decode("latin-1"))


def test_ranges_of_a_volume_are_found_on_the_disk() -> None:
    pieces = ((1000, 100), (200, 50), (5000, 100))
    extents = Extents([(90, 20), (140, 30), (249, 1)])
    assert Extents(on_disk(extents, pieces)) == Extents(
        [(1090, 10), (200, 10), (240, 10), (5000, 20), (5099, 1)]
    )


def test_a_path_that_would_have_to_be_quoted_is_refused() -> None:
    pieces = ((512, 1024), (0, 512))
    assert describe("/dev/sda", pieces).splitlines()[-2:] == [
        'RW 2 FLAT "/dev/sda" 1', 'RW 1 FLAT "/dev/sda" 0',
    ]  # fmt: skip
    for path in ('/a"b', "/a\nb", "disk", "/" + "a" * 600):
        with pytest.raises(NotUnderstood):
            describe(path, pieces)
    with pytest.raises(NotUnderstood):
        describe("/dev/sda", pieces * 200)
