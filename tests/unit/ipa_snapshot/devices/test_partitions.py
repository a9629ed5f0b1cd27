# SPDX-License-Identifier: Apache-2.0
"""What is told of a disk's partitions and file systems, for real tables and for garbage."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa_snapshot.devices.partitions import Partition, list_partitions
from ipa_snapshot.devices.source import open_source
from tests.lab import disks

MIB = 1024 * 1024


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Path]:
    def make(*lines: str, size: int = 64 * MIB) -> Path:
        path = tmp_path / "disk.raw"
        path.touch()
        os.truncate(path, size)
        disks.run("sfdisk", "--quiet", path, stdin="\n".join(lines) + "\n")
        return path

    return make


def _list(path: Path | str) -> list[Partition]:
    with open_source(str(path)) as source:
        return list_partitions(source)


def test_partitions_of_a_gpt_are_told_with_their_file_systems(
    make_table: Callable[..., Path],
) -> None:
    path = make_table("label: gpt", "size=8MiB", "size=16MiB", "size=4MiB")
    disks.run("mkfs.ext4", "-q", "-E", "offset=%d" % (9 * MIB), path, "16M")
    assert [(one.number, one.start, one.size, one.fs) for one in _list(path)] == [
        (1, 1 * MIB, 8 * MIB, None),
        (2, 9 * MIB, 16 * MIB, "ext4"),
        (3, 25 * MIB, 4 * MIB, None),
    ]
    assert all(one.used == one.size for one in _list(path))
    assert all(one.used_source.startswith("not examined") for one in _list(path))


def test_partitions_of_a_dos_label_are_told(make_table: Callable[..., Path]) -> None:
    path = make_table("label: dos", "size=8MiB, type=83", "size=4MiB, type=82")
    assert [(one.number, one.start, one.size) for one in _list(path)] == [
        (1, 1 * MIB, 8 * MIB), (2, 9 * MIB, 4 * MIB),
    ]  # fmt: skip


def test_numbers_are_those_of_the_table(make_table: Callable[..., Path]) -> None:
    # as on Debian's and Ubuntu's cloud images
    path = make_table("label: gpt", "1: start=20MiB, size=8MiB", "14: start=1MiB, size=4MiB",
                      "15: start=5MiB, size=8MiB")  # fmt: skip
    found = {one.number: (one.start, one.size) for one in _list(path)}
    assert found == {
        1: (20 * MIB, 8 * MIB), 14: (1 * MIB, 4 * MIB), 15: (5 * MIB, 8 * MIB),
    }  # fmt: skip


def test_on_a_device_with_large_sectors_sizes_are_in_bytes_too(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.touch()
    os.truncate(path, 64 * MIB)
    with disks.LoopDevice(path, sector_size=4096) as loop:
        disks.run("sfdisk", "--quiet", loop.path, stdin="label: gpt\nsize=8MiB\nsize=16MiB\n")
        found = _list(loop.path)
    assert [(one.start, one.size) for one in found] == [
        (1 * MIB, 8 * MIB), (9 * MIB, 16 * MIB),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [bytes(MIB), b"\xff" * MIB, b"EFI PART" * 4096, os.urandom(MIB)[:-2] + b"\x55\xaa"],
    ids=["zeros", "ones", "half a GPT", "noise"],
)  # fmt: skip
def test_a_disk_without_a_table_has_no_partitions(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    assert _list(path) == []


def test_a_file_system_without_a_table_is_no_partition(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.touch()
    os.truncate(path, 8 * MIB)
    disks.run("mkfs.ext4", "-q", path)
    assert _list(path) == []


def test_without_sfdisk_nothing_is_told(
    make_table: Callable[..., Path], put_on_path: Callable[[str, str], None]
) -> None:
    path = make_table("label: gpt", "size=8MiB")
    put_on_path("sfdisk", "exit 127")
    assert _list(path) == []


@pytest.mark.parametrize(
    "answer",
    ["nonsense", "[]", "{}", '{"partitiontable": {"partitions": 7}}',
     '{"partitiontable": {"partitions": [{}]}}',
     '{"partitiontable": {"partitions": [{"start": "x", "size": 1}]}}'],
)  # fmt: skip
def test_what_sfdisk_should_not_print_is_not_told(
    tmp_path: Path, put_on_path: Callable[[str, str], None], answer: str
) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB))
    put_on_path("sfdisk", "echo '%s'" % answer)
    assert _list(path) == []


def test_of_a_hostile_table_not_everything_is_told(make_table: Callable[..., Path]) -> None:
    path = make_table("label: gpt", "table-length: 300", *(["size=1MiB"] * 200), size=256 * MIB)
    assert len(_list(path)) == 128


def test_a_result_tells_how_much_of_a_partition_is_used_and_how_that_is_known() -> None:
    assert Partition(2, MIB, 8 * MIB, "ext4", 5, "dumpe2fs", "clean").to_wire() == {
        "number": 2, "start": MIB, "size": 8 * MIB, "fs": "ext4", "used": 5,
        "used_source": "dumpe2fs", "journal": "clean",
    }  # fmt: skip
