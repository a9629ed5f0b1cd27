# SPDX-License-Identifier: Apache-2.0
"""A disk is opened read-only and claimed, one in use is refused, and a read error is told.

With real loop devices and mounts.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices.source import CHUNK, open_source
from tests.lab import disks

MIB = 1024 * 1024
MakeDisk = Callable[..., Path]


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    path = tmp_path / "ext4.raw"
    path.touch()
    os.truncate(path, 8 * MIB)
    disks.run("mkfs.ext4", "-q", path)
    return path


def _read(path: str | Path) -> bytes:
    with open_source(str(path)) as source:
        return b"".join(source.chunks())


def test_an_image_file_is_read_from_its_first_byte_to_its_last(make_disk: MakeDisk) -> None:
    path = make_disk(CHUNK + 512, 3 * MIB)
    with open_source(str(path)) as source:
        assert (source.path, source.size) == (str(path), CHUNK + 512 + 3 * MIB)
        assert source.logical_sector_size == 512
        chunks = list(source.chunks())
    assert b"".join(chunks) == path.read_bytes()
    assert max(map(len, chunks)) <= CHUNK


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_block_device_is_read_too_and_tells_its_sector_size(
    make_disk: MakeDisk, sector_size: int
) -> None:
    path = make_disk(5 * MIB)
    with disks.LoopDevice(path, sector_size=sector_size) as loop, open_source(loop.path) as source:
        assert (source.size, source.logical_sector_size) == (5 * MIB, sector_size)
        assert b"".join(source.chunks()) == path.read_bytes()


def test_the_disk_is_opened_for_reading_only(make_disk: MakeDisk) -> None:
    with (
        disks.LoopDevice(make_disk()) as loop,
        open_source(loop.path) as source,
        pytest.raises(OSError, match="Bad file descriptor"),
    ):
        os.write(source.fd, b"x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "none cannot be opened: .*No such file"),
        ("", "cannot be opened"),
        (".", "neither a block device nor an image file"),
        ("/dev/null", "/dev/null is neither a block device nor an image file"),
        ("fifo", "fifo is neither a block device nor an image file"),
        ("a\x00b", "cannot be opened"),
        ("empty", "empty is empty: there is nothing to take a snapshot of"),
    ],
)
def test_what_is_no_disk_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("empty").touch()
    with pytest.raises(errors.DeviceNotFound, match=reason), open_source(name):
        pytest.fail("it was opened")


def test_a_loop_device_without_a_disk_is_not_found(make_disk: MakeDisk) -> None:
    with disks.LoopDevice(make_disk()) as loop:
        path = loop.path
    with pytest.raises(errors.DeviceNotFound), open_source(path):
        pytest.fail("it was opened")


@pytest.mark.parametrize("size", [1, 511, 513, MIB + 100])
def test_a_file_that_is_no_whole_number_of_sectors_is_refused(
    make_disk: MakeDisk, size: int
) -> None:
    path = make_disk(size)
    with pytest.raises(errors.InvalidRequest, match="%s has %d bytes" % (path, size)):
        _read(path)


def test_a_mounted_device_is_in_use_and_the_mount_point_is_told(ext4: Path) -> None:
    with (
        disks.LoopDevice(ext4) as loop,
        disks.mounted(loop.path, "ext4") as where,
        pytest.raises(errors.DeviceInUse) as caught,
    ):
        _read(loop.path)
    assert str(caught.value).startswith("%s is in use (mounted on %s): " % (loop.path, where))


def test_a_device_that_is_swapped_to_is_in_use(make_disk: MakeDisk) -> None:
    disk = make_disk(MIB)
    disks.run("mkswap", disk)
    with disks.LoopDevice(disk) as loop:
        disks.run("swapon", loop.path)
        try:
            with pytest.raises(errors.DeviceInUse, match=r"is in use \(used as swap\): "):
                _read(loop.path)
        finally:
            disks.run("swapoff", loop.path)


def test_a_device_that_is_mounted_read_only_is_in_use_too(ext4: Path) -> None:
    with (
        disks.LoopDevice(ext4) as loop,
        disks.mounted(loop.path, "ext4", "ro"),
        pytest.raises(errors.DeviceInUse),
    ):
        _read(loop.path)


def test_a_device_that_another_program_has_claimed_is_in_use(make_disk: MakeDisk) -> None:
    with (
        disks.LoopDevice(make_disk()) as loop,
        open_source(loop.path),
        pytest.raises(errors.DeviceInUse, match="%s is in use: " % loop.path),
    ):
        _read(loop.path)


def test_an_image_file_that_is_mounted_through_a_loop_device_is_in_use(ext4: Path) -> None:
    with (
        disks.LoopDevice(ext4) as loop,
        disks.mounted(loop.path, "ext4") as where,
        pytest.raises(errors.DeviceInUse) as caught,
    ):
        _read(ext4)
    expected = "%s is in use through %s (mounted on %s)" % (ext4, loop.path, where)
    assert str(caught.value).startswith(expected)


def test_an_image_file_of_which_a_part_is_mounted_is_in_use_by_any_of_its_names(
    ext4: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "whole.raw"
    disk.write_bytes(bytes(MIB) + ext4.read_bytes())
    link = tmp_path / "link"
    link.symlink_to(disk)
    with disks.LoopDevice(disk, offset=MIB) as loop, disks.mounted(loop.path, "ext4"):
        for path in (disk, link):
            with pytest.raises(errors.DeviceInUse, match=loop.path):
                _read(path)


def test_an_image_file_behind_an_idle_loop_device_is_free(make_disk: MakeDisk) -> None:
    path = make_disk()
    with disks.LoopDevice(path):
        assert _read(path) == path.read_bytes()


def test_after_the_unmount_the_device_is_free(ext4: Path) -> None:
    with disks.LoopDevice(ext4) as loop:
        with disks.mounted(loop.path, "ext4"):
            pass
        assert len(_read(loop.path)) == 8 * MIB


def test_while_a_device_is_open_nobody_can_mount_it(ext4: Path) -> None:
    with disks.LoopDevice(ext4) as loop:
        with (
            open_source(loop.path),
            pytest.raises(RuntimeError, match=r"busy|already mounted"),
            disks.mounted(loop.path, "ext4"),
        ):
            pass
        with disks.mounted(loop.path, "ext4") as where:
            assert (where / "lost+found").is_dir()


@pytest.fixture
def descriptors() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.usefixtures("descriptors")
def test_the_disk_is_closed_whatever_happens(make_disk: MakeDisk) -> None:
    path = make_disk(513)
    with pytest.raises(errors.InvalidRequest):
        _read(path)
    with pytest.raises(KeyboardInterrupt), open_source(str(make_disk())):
        raise KeyboardInterrupt


def test_a_file_that_became_smaller_is_a_read_failure_with_the_offset(
    make_disk: MakeDisk,
) -> None:
    path = make_disk(2 * CHUNK)
    with open_source(str(path)) as source:
        os.truncate(path, CHUNK + 512)
        with pytest.raises(errors.ReadFailed) as caught:
            list(source.chunks())
    assert "%s ends at offset %d, expected %d bytes" % (path, CHUNK + 512, 2 * CHUNK) in str(
        caught.value
    )


def test_an_unreadable_sector_is_a_read_failure_with_the_offset(make_disk: MakeDisk) -> None:
    path = make_disk(2 * CHUNK)
    with disks.LoopDevice(path) as loop, open_source(loop.path) as source:
        os.truncate(path, CHUNK)  # the loop device answers EIO to what lies behind
        chunks = source.chunks()
        assert len(next(chunks)) == CHUNK
        with pytest.raises(errors.ReadFailed) as caught:
            next(chunks)
    expected = "%s cannot be read at offset %d: Input/output error" % (loop.path, CHUNK)
    assert str(caught.value).startswith(expected)
