# SPDX-License-Identifier: Apache-2.0
"""Where it is not certain what a disk holds, all of it is copied: with real tables and tools."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices import used_map
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from tests.lab import disks

MIB = 1024 * 1024
SIZE = 64 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.touch()
    os.truncate(path, SIZE)
    return path


def map_of(path: Path) -> UsedMap:
    with open_source(str(path)) as source:
        return map_disk(source)


def is_copied(found: UsedMap, reason: str) -> bool:
    everything = Extents([(0, SIZE)])
    return (
        found.extents == found.unmapped == everything
        and found.partitions == ()
        and reason in found.warnings[0]
    )


@pytest.mark.parametrize(
    "script",
    ["exit 127", "echo 'sfdisk: disk.raw: Input/output error' >&2; exit 1", "kill -9 $$",
     "echo nonsense", "echo '{}'", "echo '[]'"],
)  # fmt: skip
def test_where_the_table_cannot_be_read_a_file_system_on_the_disk_is_not_believed(
    disk: Path, put_on_path: Callable[[str, str], None], script: str
) -> None:
    disks.run("mkfs.ext4", "-q", disk)
    put_on_path("sfdisk", script)
    assert is_copied(map_of(disk), "the partition table is not believed")


def test_where_sfdisk_does_not_start_the_disk_is_copied(
    disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disks.run("mkfs.ext4", "-q", disk)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_copied(map_of(disk), "sfdisk failed")


@pytest.mark.parametrize("script", ["exit 127", "exit 8", "echo bad >&2; exit 2", "kill -9 $$"])
def test_where_blkid_fails_a_table_is_not_believed(
    disk: Path, put_on_path: Callable[[str, str], None], script: str
) -> None:
    disks.run("sfdisk", "-q", disk, stdin="label: gpt\nsize=30MiB\n")
    put_on_path("blkid", script)
    assert is_copied(map_of(disk), "what is on the whole disk is not known")


def test_a_table_from_its_backup_is_not_believed_under_two_file_systems(
    disk: Path, tmp_path: Path
) -> None:
    disks.run("sfdisk", "-q", disk, stdin="label: gpt\nsize=8MiB\n")
    other = tmp_path / "other"
    for command, size, start, end in (
        (["mkfs.ext4", "-q"], SIZE, 1024, 2048),
        (["mkfs.btrfs", "-q"], 120 * MIB, 65536, 65536 + 4096),
    ):
        other.write_bytes(b"")
        os.truncate(other, size)
        disks.run(*command, other)
        with disk.open("r+b") as target:
            target.seek(start)
            target.write(other.read_bytes()[start:end])
    with disk.open("r+b") as target:
        target.seek(512)
        target.write(bytes(512))
    assert '"start": 2048' in disks.run("sfdisk", "--json", disk), "sfdisk took the backup"
    assert is_copied(map_of(disk), "what is on the whole disk is not known")


@pytest.mark.parametrize(
    ("label", "kind", "name"),
    [("dos", "42", "dynamic disk"),
     ("gpt", "AF9B60A0-1431-4F62-BC68-3311714A69AD", "dynamic disk"),
     ("gpt", "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "dynamic disk"),
     ("gpt", "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "storage pool")],
)  # fmt: skip
def test_a_volume_of_windows_that_may_go_on_elsewhere_is_copied_whole(
    disk: Path, label: str, kind: str, name: str
) -> None:
    disks.run("sfdisk", "-q", disk, stdin=f"label: {label}\nsize=40MiB, type={kind}\n")
    with disks.LoopDevice(disk, MIB, 40 * MIB) as loop:
        disks.run("mkfs.ntfs", "-F", "-Q", "-q", loop.path)
    found = map_of(disk)
    assert found.extents == found.unmapped == Extents([(0, SIZE)])
    assert name in found.warnings[0]


@pytest.fixture
def with_partitions(disk: Path) -> Path:
    disks.run("sfdisk", "-q", disk, stdin="label: gpt\n" + "size=4MiB\n" * 8)
    for number in range(8):
        with disks.LoopDevice(disk, (1 + 4 * number) * MIB, 4 * MIB) as loop:
            disks.run("mkfs.ext4", "-q", loop.path)
    return disk


def test_partitions_for_which_no_time_is_left_are_copied_whole(
    with_partitions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = map_of(with_partitions)
    assert mapped.warnings == ()
    monkeypatch.setattr(used_map, "_MOST_S", 0)
    found = map_of(with_partitions)
    assert [part.used for part in found.partitions] == [4 * MIB] * 8
    assert len(found.warnings) == 8
    assert "copied whole: the maps of the others took 0 s already" in found.warnings[7]


def test_whoever_wants_an_end_is_asked_while_partitions_are_mapped(
    with_partitions: Path, put_on_path: Callable[[str, str], None], tmp_path: Path
) -> None:
    put_on_path("dumpe2fs", "echo >> %s/started; sleep 2; exit 1" % tmp_path)

    def stop_when_begun() -> None:
        if (tmp_path / "started").exists():
            raise errors.Cancelled("it is not wanted any more")

    with open_source(str(with_partitions)) as source, pytest.raises(errors.Cancelled):
        map_disk(source, stop_when_begun)
    assert (tmp_path / "started").read_text().count("\n") <= 4, "no further ones are begun"
