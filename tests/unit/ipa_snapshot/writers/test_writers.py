# SPDX-License-Identifier: Apache-2.0
"""What each writer stores is the disk, and its size and digest are those of the stored bytes."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices.source import Source, open_source
from ipa_snapshot.writers import base, davfs, davfs2
from ipa_snapshot.writers.base import Destination, Writer
from ipa_snapshot.writers.davfs import DavfsWriter
from ipa_snapshot.writers.dd import DdWriter
from ipa_snapshot.writers.nfs import NfsWriter
from snapshot_core import qemu_img
from snapshot_core.credentials import Trust
from snapshot_core.image_options import ImageOptions
from snapshot_core.location import Location
from snapshot_core.progress import Meter, Progress
from snapshot_core.storage.base import Storage
from snapshot_core.storage.directory import DirectoryStorage
from tests.lab import disks
from tests.unit.memory_storage import MemoryStorage

MIB = 1024 * 1024
MakeDisk = Callable[..., Path]


@pytest.fixture
def disk(make_disk: MakeDisk) -> Path:
    return make_disk(3 * MIB, 6 * MIB)


@pytest.fixture
def source(disk: Path) -> Iterator[Source]:
    with open_source(str(disk)) as opened:
        yield opened


def _destination(storage: Storage) -> Destination:
    location = Location.parse("http://127.0.0.1:1/dir")
    storage.create("image.part")
    return Destination(storage, "image.part", location, None, Trust())


@pytest.mark.parametrize("writer", [NfsWriter, DavfsWriter])
@pytest.mark.parametrize(
    ("options", "compression"),
    [
        (ImageOptions("qcow2", "auto"), "zstd"),
        (ImageOptions("qcow2", "zlib"), "zlib"),
        (ImageOptions("qcow2", "none"), "none"),
        (ImageOptions("raw", "auto"), "none"),
    ],
)
def test_an_image_in_a_directory_is_the_disk(
    tmp_path: Path,
    disk: Path,
    source: Source,
    writer: type[Writer],
    options: ImageOptions,
    compression: str,
) -> None:
    directory = tmp_path / "storage"
    directory.mkdir()
    destination = _destination(DirectoryStorage(directory, "file://there"))
    written = writer().write(source, destination, options, Meter(None))
    image = directory / "image.part"
    assert written.size == image.stat().st_size
    assert written.sha512 == hashlib.sha512(image.read_bytes()).hexdigest()
    assert (written.disk_format, written.compression) == (options.disk_format, compression)
    assert written.bytes_read == 9 * MIB
    disks.run("qemu-img", "compare", "-f", "raw", "-F", options.disk_format, disk, image)
    if options.disk_format == "qcow2":
        assert written.size < 5 * MIB
        disks.run("qemu-img", "check", "-f", "qcow2", image)


def test_a_disk_that_pretends_to_be_an_image_is_copied_as_it_is(
    tmp_path: Path, make_disk: MakeDisk
) -> None:
    # its first sector is a qcow2's, whose backing file is one of this machine's
    secret = make_disk(name="secret")
    evil = tmp_path / "evil.raw"
    disks.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, evil)
    os.truncate(evil, MIB)
    image = tmp_path / "image.part"
    with open_source(str(evil)) as source:
        destination = _destination(DirectoryStorage(tmp_path, "file://there"))
        NfsWriter().write(source, destination, ImageOptions(), Meter(None))
    restored = tmp_path / "restored"
    disks.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, restored)
    assert restored.read_bytes() == evil.read_bytes()


def test_dd_stores_every_byte_and_says_that_they_are_raw(disk: Path, source: Source) -> None:
    storage = MemoryStorage()
    told: list[Progress] = []
    written = DdWriter().write(source, _destination(storage), ImageOptions(), Meter(told.append))
    assert storage.objects == {"image.part": disk.read_bytes()}
    assert written.sha512 == hashlib.sha512(disk.read_bytes()).hexdigest()
    assert (written.size, written.bytes_read, written.bytes_sent) == (9 * MIB,) * 3
    assert (written.disk_format, written.compression) == ("raw", "none")
    assert told[0] == Progress("stream", 9 * MIB)


def test_dd_passes_a_read_failure_on(disk: Path, source: Source) -> None:
    os.truncate(disk, MIB)
    with pytest.raises(errors.ReadFailed, match="at offset"):
        DdWriter().write(source, _destination(MemoryStorage()), ImageOptions(), Meter(None))


def test_an_unreadable_sector_is_told_by_qemu_img_too(tmp_path: Path, make_disk: MakeDisk) -> None:
    path = make_disk(8 * MIB, name="broken.raw")
    with disks.LoopDevice(path) as loop, open_source(loop.path) as source:
        os.truncate(path, 4 * MIB)  # the loop device answers EIO to what lies behind
        destination = _destination(DirectoryStorage(tmp_path, "file://there"))
        with pytest.raises(errors.ReadFailed) as caught:
            NfsWriter().write(source, destination, ImageOptions(), Meter(None))
    # not always the first, as qemu-img reads at several places at once
    told = re.match(r"(\S+) cannot be read at offset (\d+): Input/output error", str(caught.value))
    assert told is not None and told[1] == loop.path
    assert 4 * MIB <= int(told[2]) < 8 * MIB


def test_a_writer_for_directories_refuses_another_storage(source: Source) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"http://127.0.0.1:1/dir is not a directory"):
        NfsWriter().write(source, _destination(MemoryStorage()), ImageOptions(), Meter(None))


@pytest.mark.parametrize("writer", [NfsWriter, DavfsWriter])
def test_a_full_directory_fails_the_writing(
    source: Source, mount_tmpfs: Callable[..., Path], writer: type[Writer]
) -> None:
    destination = _destination(DirectoryStorage(mount_tmpfs("size=1m"), "file://full"))
    with pytest.raises(errors.WriteFailed, match=r"image.part was not written to the end"):
        writer().write(source, destination, ImageOptions(), Meter(None))


@pytest.mark.parametrize("writer", [NfsWriter, DavfsWriter])
def test_qemu_img_is_given_no_link_that_took_the_image_s_name(
    tmp_path: Path, disk: Path, source: Source, writer: type[Writer]
) -> None:
    content = disk.read_bytes()
    destination = _destination(DirectoryStorage(tmp_path, "file://there"))
    (tmp_path / "image.part").unlink()
    (tmp_path / "image.part").symlink_to(disk)
    with pytest.raises(errors.WriteFailed, match=r"image.part cannot be opened: it is a link"):
        writer().write(source, destination, ImageOptions(), Meter(None))
    assert disk.read_bytes() == content


# davfs2 keeps the whole image in memory


RESERVE = 512 * MIB


@pytest.fixture
def no_davfs2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # so that davfs2's absence tells that there was memory enough, and nothing is mounted
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_davfs2")
@pytest.mark.parametrize("available", [0, RESERVE, RESERVE + 4 * MIB])
def test_davfs_refuses_an_image_that_does_not_fit_into_memory(
    source: Source, free_memory: Callable[[int], None], available: int
) -> None:
    free_memory(available)
    with pytest.raises(errors.NotEnoughMemory) as caught:
        DavfsWriter().write(source, _destination(MemoryStorage()), ImageOptions(), Meter(None))
    assert "may need 7 MiB" in str(caught.value)
    assert "%d MiB are free" % (max(0, available - RESERVE) // MIB) in str(caught.value)
    assert "'stream'" in str(caught.value)


@pytest.mark.usefixtures("no_davfs2")
def test_davfs_reads_a_disk_larger_than_memory_to_see_what_is_not_zero(
    source: Source, free_memory: Callable[[int], None]
) -> None:
    free_memory(RESERVE + 8 * MIB)
    told: list[Progress] = []
    with pytest.raises(errors.StorageUnavailable, match="davfs2 is not installed here"):
        DavfsWriter().write(
            source, _destination(MemoryStorage()), ImageOptions(), Meter(told.append)
        )
    assert {progress.phase for progress in told} == {"measure"}


@pytest.mark.usefixtures("no_davfs2")
def test_davfs_needs_no_look_at_a_disk_that_fits_whole(
    source: Source, free_memory: Callable[[int], None]
) -> None:
    free_memory(RESERVE + 100 * MIB)
    told: list[Progress] = []
    with pytest.raises(errors.StorageUnavailable, match="davfs2 is not installed here"):
        DavfsWriter().write(
            source, _destination(MemoryStorage()), ImageOptions(), Meter(told.append)
        )
    assert told == []


def test_davfs_needs_the_group_of_its_package(
    source: Source, put_on_path: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path("mount.davfs", "exit 1")
    monkeypatch.setattr(davfs2, "_GROUP", "no-such-group")
    with pytest.raises(errors.StorageUnavailable, match="davfs2 is not installed here"):
        DavfsWriter().write(source, _destination(MemoryStorage()), ImageOptions(), Meter(None))


@pytest.mark.parametrize(
    ("name", "bad_sectors", "insecure", "encrypts", "reason"),
    [
        ("davfs", "fail", True, False, "always verifies"),
        ("davfs", "zero", False, False, "past bad sectors"),
        ("nfs", "zero", False, False, "past bad sectors"),
        ("davfs", "fail", False, True, "cannot encrypt"),
        ("nfs", "fail", False, True, "cannot encrypt"),
    ],
)
def test_what_a_writer_cannot_do_is_refused(
    name: str, bad_sectors: str, insecure: bool, encrypts: bool, reason: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=reason):
        base.check_options(name, bad_sectors, insecure, encrypts)


def test_what_a_writer_can_do_is_not_refused() -> None:
    for name in (base.AUTO, "stream", "dd"):
        base.check_options(name, "zero", True, True)
    for name in ("davfs", "nfs"):
        base.check_options(name, "fail", False, False)


@pytest.mark.parametrize("size", [MIB, 8 * MIB, 64 * MIB])
def test_davfs_s_cache_holds_the_image_of_a_disk_that_is_full(
    make_disk: MakeDisk, tmp_path: Path, size: int
) -> None:
    disk, image = make_disk(size), tmp_path / "image.qcow2"
    with open_source(str(disk)) as source:
        cache = davfs._cache_size(source, Meter(None))
    qemu_img.convert(disk, image, "qcow2", "none", lambda fraction: None)
    assert image.stat().st_size <= cache
