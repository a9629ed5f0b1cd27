# SPDX-License-Identifier: Apache-2.0
"""What ``ipa-snapshot inspect`` says of a disk."""

import json
import os
import pathlib
import random
import threading
import time
from collections.abc import Sequence

import pytest

from ipa_snapshot import cli, inspection
from ipa_snapshot.devices import sectors
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.used_map import UsedMap
from tests.lab import disks

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _leave_logging_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshot_core.terminal.set_up_logging", lambda *_, **__: None)


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    disks.run("sfdisk", "--quiet", path, stdin="label: gpt\nsize=200MiB\n")
    files = tmp_path / "files"
    files.mkdir()
    (files / "noise").write_bytes(random.Random(1).randbytes(20 * MIB))
    disks.run("mkfs.ext4", "-q", "-d", files, "-E", "offset=%d" % MIB, path, "200M")
    return path


def test_a_disk_is_shown_with_its_partitions_and_what_its_image_would_be(
    disk: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(disk)]) == 0
    picture, _legend, _head, partition, *_rest, summary = capsys.readouterr().out.splitlines()
    assert partition.split()[:5] == ["1", "1.00", "MiB", "200", "MiB"]
    assert "ext4" in partition
    assert "clean" in partition
    assert "dumpe2fs" in partition
    assert set(picture) <= set("·░▒▓█?")
    assert picture[-1] == "?"  # behind the last partition
    assert " of 256 MiB used, " in summary


def test_the_estimate_is_near_the_image(
    disk: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(disk), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    (tmp_path / "images").mkdir()
    arguments = ["stream", "file://%s/images" % tmp_path, "image", "--device", str(disk), "--json"]
    assert cli.main(arguments) == 0
    taken = json.loads(capsys.readouterr().out)
    assert inspected["used"] == taken["used"]
    assert inspected["used"] + inspected["skipped"] == taken["virtual_size"]
    assert inspected["partitions"] == taken["partitions"]
    assert inspected["estimated_size"] == pytest.approx(taken["size"], rel=0.3)


def test_a_disk_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "/nosuch"]) == 1
    assert "DeviceNotFound" in capsys.readouterr().err


def test_the_picture_is_darker_where_more_is_used() -> None:
    extents = Extents([(0, 100), (150, 50), (200, 1), (400, 100)])
    used_map = UsedMap(extents, (), (), Extents([(400, 100)]))
    assert inspection.picture(used_map, 500, 5) == "█▒░·?"
    assert len(inspection.picture(used_map, 500, 77)) == 77


def test_the_estimated_time_is_that_of_large_reads(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a disk that seeks for 8 ms and then reads 100 MB/s, one thing at a time
    path, preadv, arm = tmp_path / "slow", os.preadv, threading.Lock()
    path.write_bytes(random.Random(1).randbytes(200 * MIB))

    def read(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        with arm:
            count = preadv(fd, buffers, offset)
            time.sleep(0.008 + count / 100e6)
        return count

    monkeypatch.setattr(sectors.os, "preadv", read)
    inspected = inspection.inspect_disk(str(path))
    seconds = 200 * MIB / 100e6 + 50 * 0.008
    assert 0.6 * seconds < inspected.estimated_s < 2 * seconds  # the machine may be busy
