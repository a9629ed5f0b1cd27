# SPDX-License-Identifier: Apache-2.0
"""The used map of LVM: made with its own tools, and read without them.

Where a volume lies LVM's own tools say. No device-mapper is needed for that: volumes are created,
but never activated.
"""

import hashlib
import random
import re
import resource
import struct
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ipa_snapshot.devices import namespace, partitions
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.lvm.label import checksum
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from tests.functional import commands, flips
from tests.functional.maps import map_of, only
from tests.lab import disks
from tests.lab.file_systems import (
    JUNK,
    MIB,
    check,
    copy,
    crash,
    fill,
    has_junk,
    junk_in,
    make_file,
)

EXTENT = 4 * MIB
CREATE = ("--yes", "--activate", "n", "--zero", "n", "--wipesignatures", "n")
Pieces = list[tuple[int, int]]


@dataclass(frozen=True)
class Slot:
    """Where a physical volume lies."""

    path: Path
    start: int
    size: int


class Tools:
    """LVM's tools, which see nothing but the given places."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._home = home
        monkeypatch.setenv("LVM_SYSTEM_DIR", str(home))
        monkeypatch.setenv("LVM_SUPPRESS_FD_WARNINGS", "1")

    def run(self, slots: list[Slot], *commands: str) -> str:
        """Run commands, in which {0} is the device of the first of the ``slots``."""
        loops = [disks.LoopDevice(slot.path, slot.start, slot.size) for slot in slots]
        for loop in loops:
            loop.__enter__()
        try:
            paths = [loop.path for loop in loops]
            self._configure(paths)
            return "".join(
                disks.run(*(word.format(*paths) for word in command.split()))
                for command in commands
            )
        finally:
            for loop in loops:
                loop.__exit__()

    def _configure(self, paths: list[str]) -> None:
        accepted = ", ".join('"a|^%s$|"' % path for path in paths)
        (self._home / "lvm.conf").write_text(
            'devices { dir="/dev" scan=["/dev"] filter=[%s, "r|.*|"]\n'
            'use_devicesfile=0 hints="none" obtain_device_list_from_udev=0\n'
            'external_device_info_source="none" }\n'
            "activation { udev_sync=0 udev_rules=0 monitoring=0 }\n"
            "backup { backup=0 archive=0 }\n"
            'global { locking_dir="%s/lock" use_lvmpolld=0 activation=0 }\n'
            % (accepted, self._home),
            encoding="utf-8",
        )

    def create(self, slots: list[Slot], *volumes: str, group: str = "-s 4m") -> None:
        """Make a group ``vg`` with volumes, each as the options of lvcreate."""
        numbers = " ".join("{%d}" % number for number in range(len(slots)))
        self.run(
            slots,
            "pvcreate -q " + numbers,
            "vgcreate -q %s vg %s" % (group, numbers),
            *("lvcreate -q %s %s vg" % (" ".join(CREATE), volume) for volume in volumes),
        )

    def pieces(self, slots: list[Slot], volume: str, on: Slot | None = None) -> Pieces:
        """Return where a volume lies, or what of it is ``on`` one of the slots; "" is the free."""
        found = []
        for index, slot in enumerate(slots):
            if on not in {None, slot}:
                continue
            rows = self.run(
                slots,
                "pvs --noheadings --nosuffix --units b --separator | -o "
                "pv_name,pe_start,vg_extent_size,pvseg_start,pvseg_size,lv_name,seg_start_pe "
                "--segments {%d}" % index,
            )
            for row in filter(None, map(str.strip, rows.splitlines())):
                _pv, begin, size, start, length, name, place = row.split("|")
                if name.strip("[]") == volume:
                    offset = slot.start + int(begin) + int(start) * int(size)
                    found.append((int(place or 0), offset, int(length) * int(size)))
        return [(offset, length) for _place, offset, length in sorted(found)]

    def restore(self, slots: list[Slot], text: str) -> None:
        """Give the group other metadata, as after commands that would need device-mapper."""
        backup = self._home / "backup"
        backup.write_text(text, encoding="utf-8")
        self.run(slots, "vgcfgrestore -q --yes --force --file %s vg" % backup)

    def text(self, slots: list[Slot]) -> str:
        """Return the group's metadata."""
        backup = self._home / "backup"
        self.run(slots, "vgcfgbackup -q --file %s vg" % backup)
        return backup.read_text(encoding="utf-8")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    home = tmp_path / "lvm"
    home.mkdir()
    return Tools(home, monkeypatch)


def gather(disk: Path, pieces: Pieces, target: Path) -> Path:
    """Copy a volume from the disk into a file of its own."""
    make_file(target, sum(length for _start, length in pieces))
    with disk.open("rb") as read, target.open("r+b") as write:
        for start, length in pieces:
            read.seek(start)
            for offset in range(0, length, MIB):
                content = read.read(min(MIB, length - offset))
                if any(content):
                    write.write(content)
                else:
                    write.seek(len(content), 1)
    return target


def scatter(content: Path, disk: Path, pieces: Pieces) -> None:
    """Write a volume into its place on the disk."""
    with content.open("rb") as read, disk.open("r+b") as write:
        for start, length in pieces:
            write.seek(start)
            for offset in range(0, length, MIB):
                write.write(read.read(min(MIB, length - offset)))


def stamp(disk: Path, pieces: Pieces) -> None:
    with disk.open("r+b") as file:
        for start, length in pieces:
            for offset in range(0, length, MIB):
                file.seek(start + offset)
                file.write(JUNK)


MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
CHECKS = {"ext4": "ext", "xfs": "xfs", "btrfs": "btrfs"}


def make_fs(fs: str, path: Path, size: int) -> Path:
    """Make a file system in a file, with files, and junk that was deleted."""
    path.unlink(missing_ok=True)
    make_file(path, size)
    disks.run(*MKFS[fs], path)
    with disks.LoopDevice(path) as loop, disks.mounted(loop.path, fs) as top:
        fill(top)
    return path


def same(fs: str, one: Path, other: Path) -> bool:
    whole = [disks.Partition("all", fs, 0, path.stat().st_size) for path in (one, other)]
    return disks.checksums(one, whole[0]) == disks.checksums(other, whole[1])


def whole(found: UsedMap, pieces: Pieces) -> bool:
    """Tell whether all of the pieces are copied."""
    return not Extents(pieces).without(found.extents)


def none(found: UsedMap, pieces: Pieces) -> bool:
    return found.extents.without(Extents(pieces)) == found.extents


def volumes(found: UsedMap) -> dict[str, partitions.Volume]:
    return {row.name: row for part in found.partitions for row in part.volumes}


def make_disk(path: Path, mib: int, *rows: str) -> list[Slot]:
    """Make a disk with a GPT, and return its partitions."""
    make_file(path, mib * MIB)
    disks.run("sfdisk", "-q", path, stdin="label: gpt\n" + "".join(row + "\n" for row in rows))
    with open_source(str(path)) as source:
        table = partitions.read_table(source)
    assert table is not None
    return [Slot(path, slot.start, slot.size) for slot in table]


def prove(
    tools: Tools, slots: list[Slot], kinds: dict[str, str], tmp_path: Path
) -> tuple[UsedMap, Path]:
    """Copy what the map says, and see that LVM and the file systems find nothing missing."""
    original = slots[0].path
    stamp(original, tools.pieces(slots, ""))
    found = map_of(original)
    target = copy(original, found.extents, tmp_path / "copy.raw", original.stat().st_size)
    copied = [Slot(target, slot.start, slot.size) for slot in slots]
    reports = [
        [re.sub(r"/dev/loop\d+|pv\d", "", line) for line in report.splitlines()]
        for report in (
            tools.run(where, "vgck vg", "pvs -o+pv_uuid,pe_start", "lvs -a -o+seg_pe_ranges,uuid")
            for where in (slots, copied)
        )
    ]
    assert reports[0] == reports[1]
    for number in range(len(slots)):
        assert "CHECK" not in tools.run(copied, "pvck --dump headers {%d}" % number)
    for name, fs in kinds.items():
        pieces = tools.pieces(slots, name)
        before = gather(original, pieces, tmp_path / "before")
        after = gather(target, pieces, tmp_path / "after")
        with disks.LoopDevice(after) as loop:
            check(CHECKS[fs], loop.path)
        assert same(fs, before, after)
        assert junk_in(before), "the junk is not even on the disk"
    assert none(found, tools.pieces(slots, ""))
    assert not has_junk(target)
    return found, target


def test_of_volumes_in_one_piece_only_what_they_use_is_in_the_map(
    tools: Tools, tmp_path: Path
) -> None:
    _esp, slot = make_disk(tmp_path / "disk.raw", 1100, "size=32MiB", "size=+")
    kinds = {"root": ("ext4", 200), "home": ("xfs", 320), "data": ("btrfs", 200)}
    tools.create([slot], *("-n %s -L %dm" % (name, kinds[name][1]) for name in kinds),
                 "-n swap -L 64m")  # fmt: skip
    for name, (fs, mib) in kinds.items():
        content = make_fs(fs, tmp_path / "content", mib * MIB)
        scatter(content, slot.path, tools.pieces([slot], name))
    ((start, _length),) = tools.pieces([slot], "swap")
    with disks.LoopDevice(slot.path, start, 64 * MIB) as loop:
        disks.run("mkswap", loop.path)
    found, _copy = prove(tools, [slot], {name: fs for name, (fs, _mib) in kinds.items()}, tmp_path)
    rows = volumes(found)
    assert {name: row.fs for name, row in rows.items()} == {
        "vg/root": "ext4", "vg/home": "xfs", "vg/data": "btrfs", "vg/swap": "swap",
    }  # fmt: skip
    assert rows["vg/root"].used < 60 * MIB
    assert (rows["vg/root"].journal, rows["vg/swap"].used) == ("clean", 4096)
    part = found.partitions[1]
    assert part.used_source.startswith("LVM vg: 4 volumes, ")
    assert part.used < 300 * MIB
    assert not found.warnings[1:], "nothing but the empty ESP is copied whole"


def interleave(tools: Tools, slots: list[Slot], mib: int) -> Pieces:
    """Make the volumes ``one`` and ``two``, each of several pieces, out of order."""
    tools.create(slots, "-n gap -L 8m", "-n one -L %dm" % (mib // 4), "-n two -L %dm" % (mib // 4))
    tools.run(
        slots,
        "lvextend -q -L+%dm vg/one" % (mib // 4),
        "lvextend -q -L+%dm vg/two" % (mib // 2),
        "lvremove -q -y vg/gap",
        "lvextend -q -l+2 vg/one {0}:0-1",
        "lvextend -q -L%dm vg/one" % mib,
    )
    pieces = tools.pieces(slots, "one")
    assert len(pieces) > 2
    assert pieces != sorted(pieces), "all in order"
    return pieces


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_of_a_volume_in_pieces_only_what_it_uses_is_in_the_map(
    fs: str, tools: Tools, tmp_path: Path
) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 900, "size=+")
    pieces = interleave(tools, [slot], 320)
    scatter(make_fs(fs, tmp_path / "content", 320 * MIB), slot.path, pieces)
    found, _copy = prove(tools, [slot], {"one": fs}, tmp_path)
    row = volumes(found)["vg/one"]
    assert (row.fs, row.size) == (fs, 320 * MIB)
    assert row.used < 160 * MIB
    assert volumes(found)["vg/two"].used_source == "copied whole: nothing is recognised on it"


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_crashed_file_system_on_a_volume_loses_nothing(
    fs: str, in_pieces: bool, tools: Tools, tmp_path: Path
) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 900, "size=+")
    if in_pieces:
        pieces = interleave(tools, [slot], 320)
    else:
        tools.create([slot], "-n one -L 320m")
        pieces = tools.pieces([slot], "one")
    content = make_fs(fs, tmp_path / "content", 320 * MIB)
    with disks.LoopDevice(content) as loop, disks.mounted(loop.path, fs) as top:
        expected = crash(top)
    scatter(content, slot.path, pieces)
    found = map_of(slot.path)
    row = volumes(found)["vg/one"]
    assert row.journal == "dirty, replayed on an overlay", found.warnings
    assert row.used < 160 * MIB
    target = copy(slot.path, found.extents, tmp_path / "copy.raw", slot.path.stat().st_size)
    after = gather(target, pieces, tmp_path / "after")
    with disks.LoopDevice(after) as loop:
        with disks.mounted(loop.path, fs):
            pass
        check(CHECKS[fs], loop.path)
    files = disks.checksums(after, disks.Partition("all", fs, 0, after.stat().st_size))
    assert expected.items() <= {name: words.split()[3] for name, words in files.items()
                                if "links=1 " in words}.items()  # fmt: skip


@pytest.mark.parametrize("missing", ["qemu-nbd", "nbdfuse", "unshare"])
def test_where_pieces_cannot_be_put_together_a_volume_is_copied_whole(
    missing: str, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 200, "size=+")
    pieces = interleave(tools, [slot], 64)
    disks.run(*MKFS["ext4"], make_file(tmp_path / "content", 64 * MIB))
    scatter(tmp_path / "content", slot.path, pieces)
    free = tools.pieces([slot], "")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / missing).write_text("#!/bin/sh\nexit 127\n")
    (programs / missing).chmod(0o755)
    monkeypatch.setattr(namespace, "_READY_TIMEOUT_S", 0.5)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=":")
        found = map_of(slot.path)
    assert whole(found, pieces)
    assert none(found, free)
    assert "volume vg/one (unknown) is copied whole" in found.warnings[0]


def test_a_format_in_a_piece_is_not_looked_at(tools: Tools, tmp_path: Path) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 200, "size=+")
    pieces = interleave(tools, [slot], 64)
    disks.run(*MKFS["ext4"], make_file(tmp_path / "content", 64 * MIB))
    with (tmp_path / "content").open("r+b") as content:
        # a qcow2 in the first piece, which would be read through if it was probed
        disks.run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "image", "1M")
        content.write((tmp_path / "image").read_bytes()[:1024])
    scatter(tmp_path / "content", slot.path, pieces)
    assert volumes(map_of(slot.path))["vg/one"].fs == "ext4"


def test_a_volume_on_two_partitions_of_the_disk_is_mapped(tools: Tools, tmp_path: Path) -> None:
    slots = make_disk(tmp_path / "disk.raw", 700, "size=200MiB", "size=+")
    tools.create(slots)
    tools.run(slots, "lvcreate -q %s -n one -L 200m vg {1}" % " ".join(CREATE),
              "lvextend -q -L 320m vg/one {0}")  # fmt: skip
    pieces = tools.pieces(slots, "one")
    assert {start < slots[1].start for start, _length in pieces} == {True, False}
    scatter(make_fs("ext4", tmp_path / "content", 320 * MIB), slots[0].path, pieces)
    found, _copy = prove(tools, slots, {"one": "ext4"}, tmp_path)
    assert volumes(found)["vg/one"].used < 100 * MIB
    assert (
        sum(part.used for part in found.partitions)
        == found.extents.clipped(
            slots[0].start, slots[1].start + slots[1].size - slots[0].start
        ).total
    )


def test_of_a_group_on_several_disks_what_is_complete_here_is_mapped(
    tools: Tools, tmp_path: Path
) -> None:
    (here,) = make_disk(tmp_path / "disk.raw", 300, "size=+")
    there = Slot(make_file(tmp_path / "other.raw", 300 * MIB), 0, 300 * MIB)
    slots = [here, there]
    tools.create(slots)
    create = "lvcreate -q " + " ".join(CREATE)
    tools.run(slots, create + " -n all -L 80m vg {0}", create + " -n other -L 40m vg {1}",
              create + " -n part -L 300m vg {0} {1}", create + " -n two -L 20m vg")  # fmt: skip
    (place,) = tools.pieces(slots, "all")
    with disks.LoopDevice(here.path, *place) as loop:
        disks.run(*MKFS["ext4"], loop.path)
    (on_this,) = tools.pieces(slots, "part", on=here)
    found = map_of(here.path)
    rows = volumes(found)
    assert rows["vg/all"].used < 30 * MIB
    assert rows["vg/part"].used_source == "copied whole: a part of it is on another disk"
    assert rows["vg/part"].used == on_this[1]
    assert rows["vg/part"].used < rows["vg/part"].size == 300 * MIB
    assert whole(found, [on_this])
    assert "vg/other" not in rows


def test_lvm_on_the_whole_disk_is_mapped(tools: Tools, tmp_path: Path) -> None:
    slot = Slot(make_file(tmp_path / "disk.raw", 400 * MIB), 0, 400 * MIB)
    tools.create([slot], "-n root -L 300m")
    scatter(make_fs("ext4", tmp_path / "content", 300 * MIB), slot.path,
            tools.pieces([slot], "root"))  # fmt: skip
    found, _copy = prove(tools, [slot], {"root": "ext4"}, tmp_path)
    assert (only(found).number, only(found).fs) == (0, "LVM2_member")
    assert found.warnings == ()


def test_two_metadata_areas_and_small_extents_are_understood(tools: Tools, tmp_path: Path) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 200, "size=+")
    tools.run([slot], "pvcreate -q --metadatacopies 2 --dataalignment 3m {0}",
              "vgcreate -q -s 64k vg {0}",
              "lvcreate -q %s -n root -L 100m vg" % " ".join(CREATE))  # fmt: skip
    (place,) = tools.pieces([slot], "root")
    with disks.LoopDevice(slot.path, *place) as loop:
        disks.run(*MKFS["ext4"], loop.path)
    found = map_of(slot.path)
    assert volumes(found)["vg/root"].used < 30 * MIB
    assert none(found, tools.pieces([slot], ""))
    assert whole(found, [(slot.start, 3 * MIB), (slot.start + slot.size - MIB, MIB)])


def test_metadata_that_goes_round_its_ring_is_understood(tools: Tools, tmp_path: Path) -> None:
    slot = Slot(make_file(tmp_path / "disk.raw", 64 * MIB), 0, 64 * MIB)
    tools.run([slot], "pvcreate -q --metadatasize 40k --dataalignment 64k {0}",
              "vgcreate -q vg {0}",
              "lvcreate -q %s -n root -L 32m vg" % " ".join(CREATE))  # fmt: skip
    wrapped = 0
    for number in range(60):
        tools.run([slot], "vgchange -q --addtag %s vg" % ("tag%d" % number * 3))
        with slot.path.open("rb") as disk:
            disk.seek(4096)
            *_head, size, offset, length = struct.unpack("<I16sIQQQQ", disk.read(56))
        wrapped += offset + length > size
        with open_source(str(slot.path)) as source:
            found = map_disk(source)
        assert only(found).used_source.startswith("LVM vg: 1 volumes, "), found.warnings
    assert wrapped


def add(text: str, volume: str) -> str:
    """Put volumes into a metadata text."""
    head, tail = re.split(r"(?<=logical_volumes \{\n)", text, maxsplit=1)
    return head + volume + tail


def described(name: str, segment: str, visible: str = ', "VISIBLE"', extents: int = 5) -> str:
    uuid = "AAAAAA-AAAA-AAAA-AAAA-AAAA-AAAA-%s" % hashlib.md5(name.encode()).hexdigest()[:6]
    return """%s {
        id = "%s"
        status = ["READ", "WRITE"%s]
        segment_count = 1
        segment1 {
            start_extent = 0
            extent_count = %d
            %s
        }
    }
    """ % (name, uuid, visible, extents, segment)


def linear(place: int) -> str:
    return 'type = "striped"\nstripe_count = 1\nstripes = ["pv0", %d]' % place


STRANGE = {
    "thin pool": described("pool", 'type = "thin-pool"\nmetadata = "pool_tmeta"\n'
                           'pool = "pool_tdata"\ntransaction_id = 1\nchunk_size = 128\n'
                           'discards = "passdown"\nzero_new_blocks = 1')
    + described("pool_tmeta", linear(20), "") + described("pool_tdata", linear(25), "")
    + described("thin", 'type = "thin"\nthin_pool = "pool"\ntransaction_id = 0\ndevice_id = 1'),
    "raid1": described("mirrored", 'type = "raid1"\ndevice_count = 2\nregion_size = 1024\n'
                       'raids = ["r_rmeta_0", "r_rimage_0", "r_rmeta_1", "r_rimage_1"]')
    + described("r_rmeta_0", linear(35), "", 1) + described("r_rimage_0", linear(20), "")
    + described("r_rmeta_1", linear(36), "", 1) + described("r_rimage_1", linear(25), ""),
    "snapshot": described("cow", linear(20))
    + described("snapshot0", 'type = "snapshot"\nchunk_size = 8\norigin = "root"\n'
                'cow_store = "cow"', ""),
    "striped": described("two", 'type = "striped"\nstripe_count = 2\nstripe_size = 128\n'
                         'stripes = ["pv0", 20, "pv0", 25]', extents=10),
    "hidden": described("lvol0_pmspare", linear(20), ""),
    "pvmove": described("moved", 'type = "striped"\nstripe_count = 1\nstripes = ["pvmove0", 0]')
    + described("pvmove0", 'type = "mirror"\nmirror_count = 2\nextents_moved = 0\n'
                'region_size = 1024\nmirrors = ["pv0", 20, "pv0", 25]', ', "PVMOVE", "LOCKED"'),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_volumes_that_are_not_linear_are_copied_whole(
    name: str, tools: Tools, tmp_path: Path
) -> None:
    slot = Slot(make_file(tmp_path / "disk.raw", 256 * MIB), 0, 256 * MIB)
    tools.create([slot], "-n root -L 72m")
    (place,) = tools.pieces([slot], "root")
    with disks.LoopDevice(slot.path, *place) as loop:
        disks.run(*MKFS["ext4"], loop.path)
    tools.restore([slot], add(tools.text([slot]), STRANGE[name]))
    free = tools.pieces([slot], "")
    found = map_of(slot.path)
    taken = Extents([(MIB, 63 * EXTENT)]).without(Extents(free)).without(Extents([place]))
    assert taken.total >= 5 * EXTENT
    assert whole(found, list(taken))
    assert none(found, free)
    is_origin = name == "snapshot"
    assert whole(found, [place]) == is_origin
    assert len(found.warnings) == len(volumes(found)) - (not is_origin)
    assert all("volume vg/" in warning for warning in found.warnings)


def test_two_copies_of_a_physical_volume_are_copied_whole(tools: Tools, tmp_path: Path) -> None:
    slots = make_disk(tmp_path / "disk.raw", 200, "size=64MiB", "size=64MiB")
    tools.create(slots[:1], "-n root -L 20m")
    with slots[0].path.open("r+b") as disk:
        disk.seek(slots[0].start)
        content = disk.read(2 * MIB)
        disk.seek(slots[1].start)
        disk.write(content)
    found = map_of(slots[0].path)
    assert found.extents.total == 200 * MIB
    assert "the same uuid" in found.warnings[0]


def test_metadata_of_different_ages_is_copied_whole(tools: Tools, tmp_path: Path) -> None:
    slots = make_disk(tmp_path / "disk.raw", 200, "size=64MiB", "size=64MiB")
    tools.create(slots, "-n root -L 20m")
    with slots[1].path.open("r+b") as disk:
        disk.seek(slots[1].start)
        content = disk.read(MIB)
        tools.run(slots, "lvextend -q -L+20m vg/root")
        disk.seek(slots[1].start)
        disk.write(content)
    found = map_of(slots[0].path)
    assert found.extents.total == 200 * MIB
    assert "contradict" in found.warnings[0]


@pytest.mark.parametrize("change", ["vgexport vg", "vgremove -q -y vg"])
def test_an_exported_group_and_a_volume_of_no_group_are_copied_whole(
    change: str, tools: Tools, tmp_path: Path
) -> None:
    slot = Slot(make_file(tmp_path / "disk.raw", 64 * MIB), 0, 64 * MIB)
    tools.create([slot])
    tools.run([slot], change)
    found = map_of(slot.path)
    assert found.extents.total == 64 * MIB
    assert re.search("EXPORTED|not on this disk", found.warnings[0])


@pytest.mark.parametrize(
    ("count", "why"),
    [(2_000, "more than 128 logical volumes"), (10_000, "metadata of [0-9]{7} bytes")],
)
def test_thousands_of_volumes_are_copied_whole_in_little_time(
    tools: Tools, tmp_path: Path, count: int, why: str
) -> None:
    slot = Slot(tmp_path / "disk.raw", 0, count * EXTENT + 64 * MIB)
    make_file(slot.path, slot.size)
    tools.run(
        [slot], "pvcreate -q --metadatasize 32m {0}", "vgcreate -q vg {0}",
        "lvcreate -q %s -l 1 -n one vg" % " ".join(CREATE),
    )  # fmt: skip
    tools.restore([slot], _multiplied(tools.text([slot]), count))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    outcome = commands.run("ipa-snapshot", "inspect", slot.path, "--json")
    elapsed_s = time.monotonic() - began
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - usage.ru_utime
    # pytest -s shows what the documentation quotes
    print("%d logical volumes: %.1f s" % (count, elapsed_s))
    assert re.search(why, outcome.out)
    assert outcome.json["skipped"] == 0
    assert elapsed_s < 60
    assert cpu_s < 20


def _multiplied(text: str, count: int) -> str:
    """Return a group's metadata with so many volumes, each like its only one, in a row."""
    begin, end = text.index("\t\tone {"), text.index("\n\t\t}\n", text.index("\t\tone {")) + 5
    one = text[begin:end]

    def numbered(number: int) -> str:
        # LVM wants 32 letters and digits that no other volume has.
        uuid = 'id = "%06d-0000-0000-0000-0000-0000-%06d"' % (number, number)
        volume = re.sub('id = "[^"]+"', uuid, one, count=1)
        volume = re.sub('"pv0", [0-9]+', '"pv0", %d' % number, volume)
        return volume.replace("one {", "volume%d {" % number)

    return text[:begin] + "\n".join(map(numbered, range(count))) + text[end:]


@pytest.mark.parametrize("content", ["table", "lvm", "luks", "noise"])
def test_what_is_not_understood_in_a_volume_is_copied_whole(
    content: str, tools: Tools, tmp_path: Path
) -> None:
    slot = Slot(make_file(tmp_path / "disk.raw", 64 * MIB), 0, 64 * MIB)
    tools.create([slot], "-n root -L 32m")
    (place,) = tools.pieces([slot], "root")
    with disks.LoopDevice(slot.path, *place) as loop:
        if content == "table":
            disks.run("sfdisk", "-q", "--no-tell-kernel", loop.path, stdin="label: gpt\nsize=4M\n")
    with slot.path.open("r+b") as disk:
        disk.seek(place[0])
        if content == "luks":
            disk.write(b"LUKS\xba\xbe\0\1".ljust(1024, b"\0"))
        elif content == "noise":
            disk.write(random.Random(1).randbytes(MIB))
    if content == "lvm":
        tools.run([Slot(slot.path, *place)], "pvcreate -q {0}")
    found = map_of(slot.path)
    assert whole(found, [place])
    assert none(found, tools.pieces([slot], ""))
    assert "volume vg/root" in found.warnings[0]


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    ("command", "table"),
    [(["mkfs.btrfs", "-q"], "label: gpt\nsize=40M\n"), (["mkswap"], "label: dos\nstart=2048\n"),
     (["mkfs.vfat", "-F", "32"], "label: dos\nstart=8192\n")],
    ids=["btrfs", "swap", "vfat"],
)  # fmt: skip
def test_a_volume_with_a_table_on_what_was_a_file_system_is_copied_whole(
    command: list[str], table: str, in_pieces: bool, tools: Tools, tmp_path: Path
) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 400, "size=+")
    if in_pieces:
        pieces = interleave(tools, [slot], 128)
    else:
        tools.create([slot], "-n one -L 128m")
        pieces = tools.pieces([slot], "one")
    content = make_file(tmp_path / "content", 128 * MIB)
    disks.run(*command, content)
    scatter(content, slot.path, pieces)
    assert not whole(map_of(slot.path), pieces)
    disks.run("sfdisk", "-q", content, stdin=table)
    scatter(content, slot.path, pieces)
    found = map_of(slot.path)
    assert whole(found, pieces)
    assert none(found, tools.pieces([slot], ""))
    assert "a partition table (" in found.warnings[0]


def test_a_physical_volume_with_a_table_on_it_is_copied_whole(tools: Tools, tmp_path: Path) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 100, "size=+")
    tools.create([slot], "-n one -L 20m")
    assert map_of(slot.path).extents.total < 100 * MIB
    with disks.LoopDevice(slot.path, slot.start, slot.size) as loop:
        disks.run("sfdisk", "-q", "--no-tell-kernel", loop.path, stdin="label: dos\nstart=8192\n")
    found = map_of(slot.path)
    assert found.extents.total == 100 * MIB
    assert found.warnings == (
        "partition 1 (unknown) is copied whole: a partition table (dos) lies on it",
    )


@pytest.mark.parametrize("kind", ["in one piece", "in pieces", "striped"])
def test_the_whole_disk_of_a_system_that_hibernated_into_a_volume_is_copied(
    kind: str, tools: Tools, tmp_path: Path
) -> None:
    (slot,) = make_disk(tmp_path / "disk.raw", 400, "size=+")
    if kind == "in pieces":
        (place, *_more) = interleave(tools, [slot], 64)
    else:
        tools.create([slot], "-n one -L 20m")
        if kind == "striped":
            tools.restore([slot], add(tools.text([slot]), STRANGE["striped"]))
        (place, *_more) = tools.pieces([slot], "two" if kind == "striped" else "one")
    with disks.LoopDevice(slot.path, *place) as loop:
        disks.run("mkswap", loop.path)
    assert map_of(slot.path).extents.total < 400 * MIB
    with slot.path.open("r+b") as disk:
        disk.seek(place[0] + 4086)
        disk.write(b"S1SUSPEND\0")
    found = map_of(slot.path)
    assert found.extents.total == 400 * MIB
    assert re.search("copied: volume vg/(one|two) holds a hibernated system", found.warnings[0])


LABEL, MDA = (512, 160), (4096, 64)


def _with_checksums(begin: bytearray) -> bytearray:
    """Correct the checksums of a label, a metadata area's header and its text."""
    offset, length = struct.unpack_from("<QQ", begin, 4136)
    text = bytes(begin[4096 + offset : 4096 + offset + length])
    struct.pack_into("<I", begin, 4152, checksum(text))
    struct.pack_into("<I", begin, 4096, checksum(bytes(begin[4100:4608])))
    struct.pack_into("<I", begin, 528, checksum(bytes(begin[532:1024])))
    return begin


@pytest.mark.parametrize("mended", [False, True], ids=["checksums wrong", "checksums right"])
def test_whatever_is_flipped_no_used_block_is_skipped(
    mended: bool, tools: Tools, tmp_path: Path
) -> None:
    slot = Slot(make_file(tmp_path / "disk.raw", 64 * MIB), 0, 64 * MIB)
    tools.create([slot], "-n root -L 20m", "-n two -L 12m", "-n three -L 8m")
    with slot.path.open("rb") as disk:
        begin = disk.read(64 * 1024)
    known = map_of(slot.path).extents
    assert known.total < 64 * MIB
    offset, length = struct.unpack_from("<QQ", begin, 4136)
    places = [LABEL, MDA, (4096 + offset, length), (4096 + offset, length)]
    campaign, whole_times = flips.Campaign("lvm" if mended else "lvm without checksums", places), 0
    for bits in campaign:
        changed = bytearray(flips.flipped(begin, bits))
        if mended and 512 <= struct.unpack_from("<Q", changed, 4136)[0] < 60000:
            changed = _with_checksums(changed)
        with slot.path.open("r+b") as disk:
            disk.write(changed)
        with open_source(str(slot.path)) as source:
            found = map_disk(source)
        campaign.keep(flips.outcome(found), bits)
        assert found.extents.end <= 64 * MIB, bits
        assert whole(found, [(0, MIB)]), "the metadata itself"
        is_whole = found.extents.total == 64 * MIB
        whole_times += is_whole
        if not mended:
            assert found.extents.union(known) == found.extents, bits
        elif not is_whole:
            _agrees_with_lvm(tools, slot, found)
    assert whole_times


def _agrees_with_lvm(tools: Tools, slot: Slot, found: UsedMap) -> None:
    """See that what is skipped is what LVM itself, if it reads this at all, calls free."""
    skipped = Extents([(0, 64 * MIB)]).without(found.extents)
    try:
        report = tools.run([slot], "pvs --noheadings --nosuffix --units b --separator | -o "
                           "pe_start,vg_extent_size,pvseg_start,pvseg_size,lv_name "
                           "--segments {0}")  # fmt: skip
    except RuntimeError:
        return
    free = []
    for row in filter(None, map(str.strip, report.splitlines())):
        if row.count("|") != 4:
            return  # a name with that, or with the end of a line, was made of another
        begin, size, start, length, name = row.split("|")
        if not name and int(size):
            free.append((int(begin) + int(start) * int(size), int(length) * int(size)))
    assert not skipped.without(Extents(free)), report
