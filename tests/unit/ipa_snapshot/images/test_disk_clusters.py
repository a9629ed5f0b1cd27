# SPDX-License-Identifier: Apache-2.0
"""Reading and compressing the clusters that matter, from real loop devices and files."""

import errno
import fcntl
import os
import pathlib
import random
import subprocess
import tempfile
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa_snapshot import errors
from ipa_snapshot.devices import sectors
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.sectors import LostSectors
from ipa_snapshot.devices.source import Source, open_source
from ipa_snapshot.images.budget import Budget
from ipa_snapshot.images.compression import Costs
from ipa_snapshot.images.disk_clusters import DiskClusters
from ipa_snapshot.images.forward import Geometry, forward_stream
from tests.lab.disks import LoopDevice

MIB = 1024 * 1024
CLUSTER = 256 * 1024
BUDGET = Budget.for_machine(cores=2)


def capture(
    source: Source, extents: Extents, first: Extents, image: pathlib.Path, buffer_size: int
) -> int:
    geometry = Geometry.for_disk(source.size, "zstd")
    with (
        DiskClusters(source, geometry, extents, first, BUDGET) as clusters,
        image.open("wb") as file,
    ):
        for block in forward_stream(geometry, clusters, buffer_size):
            file.write(block)
        return clusters.bytes_read


def restored(image: pathlib.Path) -> bytes:
    raw = image.with_suffix(".restored")
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], check=True)
    return raw.read_bytes()


def only(content: bytes, extents: Extents) -> bytes:
    masked = bytearray(len(content))
    for start, length in extents:
        masked[start : start + length] = content[start : start + length]
    return bytes(masked)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@settings(max_examples=25, deadline=None)
@given(
    sectors=st.integers(1, 5000),
    ranges=st.lists(st.tuples(st.integers(0, 5000 * 512), st.integers(0, 300_000)), max_size=12),
    buffer_size=st.sampled_from((1, 300_000, 64 * MIB)),
    early=st.booleans(),
)
def test_what_is_not_in_use_is_not_in_the_image(sectors, ranges, buffer_size, early) -> None:  # type: ignore[no-untyped-def]
    size = sectors * 512
    extents = Extents(ranges).clipped(0, size)
    first = extents if early else Extents()
    with tempfile.TemporaryDirectory() as directory:
        disk, image = pathlib.Path(directory, "disk"), pathlib.Path(directory, "image")
        content = noise(size)
        disk.write_bytes(content)
        with open_source(str(disk)) as source:
            capture(source, extents, first, image, buffer_size)
        assert restored(image) == only(content, extents)


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_loop_device_is_read_past_the_page_cache(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, sector_size: int
) -> None:
    content = noise(8 * MIB + 4096)
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    extents = Extents([(4096, 8192), (3 * MIB + 512, 100), (7 * MIB, MIB + 4096)])
    preadv, answered = os.preadv, set()

    def noting(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        count = preadv(fd, buffers, offset)
        answered.add(fd)
        return count

    monkeypatch.setattr(sectors.os, "preadv", noting)
    with LoopDevice(disk, sector_size=sector_size) as loop, open_source(loop.path) as source:
        read = capture(source, extents, Extents(), tmp_path / "image", 64 * MIB)
        assert answered == {source.direct_fd}
        assert fcntl.fcntl(source.direct_fd, fcntl.F_GETFL) & os.O_DIRECT
    assert restored(tmp_path / "image") == only(content, extents)
    assert read == 8192 + 4096 + MIB + 4096


def test_little_more_is_read_than_is_in_use(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.write(noise(100 * MIB))
        file.truncate(2 << 30)
    extents = Extents([(0, 50 * MIB), (60 * MIB, 40 * MIB)])
    with open_source(str(disk)) as source:
        read = capture(source, extents, Extents(), tmp_path / "image", 64 * MIB)
        assert read <= 1.02 * extents.total + 128 * CLUSTER
    assert (tmp_path / "image").stat().st_size <= 1.01 * extents.total + 6 * CLUSTER


def test_what_has_no_map_comes_first(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(noise(4 * MIB))
    with open_source(str(disk)) as source:
        geometry = Geometry.for_disk(source.size, "zstd")
        everything, unmapped = Extents([(0, 4 * MIB)]), Extents([(2 * MIB + 5, 10), (3 * MIB, 1)])
        with DiskClusters(source, geometry, everything, unmapped, BUDGET) as clusters:
            order = []
            while cluster := clusters.take():
                order.append(cluster.index)
    assert order == [8, 12, 0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 14, 15]


def test_a_cluster_is_left_until_it_is_taken(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(noise(30 * MIB))
    with open_source(str(disk)) as source:
        geometry = Geometry.for_disk(source.size, "zstd")
        with DiskClusters(
            source, geometry, Extents([(0, source.size)]), Extents(), BUDGET
        ) as clusters:
            assert list(clusters.left()) == list(range(120))
            for _ in range(17):
                clusters.take()
            assert list(clusters.left()) == list(range(17, 120))
            assert clusters.estimate().size == pytest.approx(103 * CLUSTER, rel=0.01)
            assert list(clusters.rest()) == list(range(17, 120))
            assert clusters.take() is None
            assert clusters.plain(119) == disk.read_bytes()[-CLUSTER:]


@pytest.mark.parametrize("readable", [0, 8 * MIB, 9 * MIB + 3 * 4096])
def test_a_read_error_is_told_with_its_offset(tmp_path: pathlib.Path, readable: int) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(noise(16 * MIB))
    with LoopDevice(disk) as loop, open_source(loop.path) as source:
        with disk.open("r+b") as file:
            file.truncate(readable)
        with pytest.raises(errors.ReadFailed, match="cannot be read at offset %d:" % readable):
            capture(source, Extents([(0, source.size)]), Extents(), tmp_path / "image", 64 * MIB)


class BadSector:
    """Answers preadv(2) as a disk with a bad sector of 512 bytes does."""

    def __init__(self, patch: pytest.MonkeyPatch, bad: int) -> None:
        self._bad, self._preadv = bad, os.preadv
        patch.setattr(sectors.os, "preadv", self.preadv)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset < self._bad + 512 and offset + sum(map(len, buffers)) > self._bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._preadv(fd, buffers, offset)


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize(
    "bad",
    [MIB + 8192, MIB + 4096 + 512, MIB + 16384 - 512, 7 * MIB + 512],
    ids=["in a small gap", "right behind a range", "right before one", "in the same block"],
)
def test_a_bad_sector_that_is_not_in_use_is_no_loss(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, bad: int, goes_on: bool
) -> None:
    content = noise(8 * MIB)
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    extents = Extents([(MIB, 4096 + 512), (MIB + 16384, 4096), (7 * MIB + 1024, 512)])
    BadSector(monkeypatch, bad)
    lost = LostSectors()
    with open_source(str(disk), lost if goes_on else None) as source:
        capture(source, extents, Extents(), tmp_path / "image", 64 * MIB)
        assert Costs.measure(source, extents)
    assert restored(tmp_path / "image") == only(content, extents)
    assert not lost.extents()


def test_a_sector_that_was_lost_before_is_zeros_in_the_image_though_it_can_be_read_now(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, bad = noise(MIB), 300 * 1024
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    extents, lost = Extents([(0, MIB)]), LostSectors()
    with open_source(str(disk), lost) as source:
        with monkeypatch.context() as patch:
            BadSector(patch, bad)
            capture(source, extents, Extents(), tmp_path / "first", 64 * MIB)
        assert list(lost.extents()) == [(bad, 512)]
        capture(source, extents, Extents(), tmp_path / "image", 64 * MIB)
    assert restored(tmp_path / "image") == content[:bad] + bytes(512) + content[bad + 512 :]
