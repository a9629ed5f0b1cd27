# SPDX-License-Identifier: Apache-2.0
"""A directory as the storage: never overwrites, tells a full or read-only one, leaves nothing."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapshot_core import errors, process
from snapshot_core.location import Location
from snapshot_core.storage import open_storage
from snapshot_core.storage.base import Storage
from snapshot_core.storage.directory import DirectoryStorage

MountTmpfs = Callable[..., Path]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


@pytest.fixture
def storage(directory: Path) -> Iterator[Storage]:
    with open_storage(Location.parse("file://%s" % directory)) as opened:
        yield opened


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_an_image_is_claimed_written_published_read_and_removed(
    storage: Storage, directory: Path
) -> None:
    storage.claim("image")
    assert _content(directory) == {"image.part": b""}
    storage.write("image.part", iter([b"some", b"", b" data"]), 9)
    storage.publish("image", 9)
    assert _content(directory) == {"image": b"some data"}
    with storage.read("image") as chunks:
        assert b"".join(chunks) == b"some data"
    storage.remove("image")
    assert _content(directory) == {}


@pytest.mark.parametrize("name", ["..", "node/../../other", "node/./image", "/etc/passwd"])
def test_a_name_that_leads_out_of_the_directory_is_refused(
    storage: Storage, directory: Path, name: str
) -> None:
    (directory.parent / "other").touch()
    with pytest.raises(errors.InvalidRequest, match="is not the name of an object"):
        storage.remove(name)
    with pytest.raises(errors.InvalidRequest, match="is not the name of an object"):
        storage.create(name)
    assert (directory.parent / "other").exists()


def test_messages_name_the_url(storage: Storage, directory: Path) -> None:
    assert storage.describe("image") == "file://%s/image" % directory


def test_the_root_directory_has_no_double_slash() -> None:
    with open_storage(Location.parse("file:///")) as storage:
        assert storage.describe("image") == "file:///image"
        assert storage.local_path("image") == Path("/image")


def test_a_directory_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "none", "file://none")
    with pytest.raises(errors.StorageUnavailable, match="file://none is not an existing directory"):
        storage.claim("image")


def test_a_file_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageUnavailable, match="is not an existing directory"):
        DirectoryStorage(tmp_path / "file", "file://file").check()


@pytest.mark.parametrize("taken", ["image", "image.part"])
def test_a_name_that_is_taken_cannot_be_claimed(
    storage: Storage, directory: Path, taken: str
) -> None:
    (directory / taken).write_bytes(b"older")
    with pytest.raises(errors.InvalidRequest, match="%s exists.*choose another" % taken):
        storage.claim("image")
    assert _content(directory) == {taken: b"older"}


def test_a_dangling_link_is_not_written_through(storage: Storage, directory: Path) -> None:
    (directory / "image.part").symlink_to(directory / "elsewhere")
    with pytest.raises(errors.InvalidRequest, match="exists"):
        storage.claim("image")
    assert not (directory / "elsewhere").exists()


def test_a_new_image_can_be_read_by_its_owner_only(storage: Storage, directory: Path) -> None:
    storage.claim("image")
    storage.write("image.part", [b"data"], 4)
    storage.publish("image", 4)
    assert (directory / "image").stat().st_mode & 0o777 == 0o600


def _without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    # as on vfat and exfat, which not every kernel has
    def link(old: object, new: object, **how: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("links", [True, False])
def test_renaming_never_overwrites(
    storage: Storage, directory: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        _without_hard_links(monkeypatch)
    (directory / "image.part").write_bytes(b"new")
    (directory / "image").write_bytes(b"older")
    with pytest.raises(errors.InvalidRequest, match="image appeared meanwhile"):
        storage.rename("image.part", "image")
    assert _content(directory) == {"image.part": b"new", "image": b"older"}


def test_a_file_system_without_hard_links_can_rename_too(
    storage: Storage, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_hard_links(monkeypatch)
    (directory / "image.part").write_bytes(b"new")
    storage.rename("image.part", "image")
    assert _content(directory) == {"image": b"new"}


def test_a_link_that_was_made_though_the_client_heard_otherwise_is_taken(
    storage: Storage, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # link(2), BUGS: over NFS it may have been made, and the answer to that was lost
    link = os.link

    def link_and_lose_the_answer(old: str, new: str, **how: Any) -> None:
        link(old, new, **how)
        link(old, new, **how)

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    (directory / "image.part").write_bytes(b"new")
    storage.rename("image.part", "image")
    assert _content(directory) == {"image": b"new"}


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(errno.EIO, "I/O error"), errors.WriteFailed),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["error", "interrupt"],
)
def test_what_cannot_lose_its_old_name_does_not_keep_the_new_one(
    storage: Storage, directory: Path, monkeypatch: pytest.MonkeyPatch,
    failure: BaseException, error: type[BaseException],
) -> None:  # fmt: skip
    unlink = os.unlink

    def fail_for_the_part(path: str, **how: Any) -> None:
        if path == "image.part":
            raise failure
        unlink(path, **how)

    (directory / "image.part").write_bytes(b"new")
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(os, "unlink", fail_for_the_part)
        storage.rename("image.part", "image")
    assert _content(directory) == {"image.part": b"new"}


def test_a_directory_that_cannot_be_looked_at_is_unavailable(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / ("x" * 256), "file://there")
    with pytest.raises(errors.StorageUnavailable, match=r"file://there: .*File name too long"):
        storage.claim("image")


def test_what_does_not_exist_cannot_be_renamed(storage: Storage) -> None:
    with pytest.raises(errors.WriteFailed, match="image could not be given its name"):
        storage.rename("image.part", "image")


def test_a_read_only_directory_cannot_be_claimed_in(mount_tmpfs: MountTmpfs) -> None:
    storage = DirectoryStorage(mount_tmpfs("ro"), "file://read-only")
    with pytest.raises(
        errors.StorageUnavailable,
        match="file://read-only cannot be written to: Read-only file system",
    ):
        storage.claim("image")


def test_a_full_file_system_is_told(mount_tmpfs: MountTmpfs) -> None:
    directory = mount_tmpfs("size=256k")
    storage = DirectoryStorage(directory, "file://full")
    storage.claim("image")
    with pytest.raises(
        errors.WriteFailed, match=r"writing file://full/image.part failed: No space left on device"
    ):
        storage.write("image.part", (b"x" * 100_000 for _ in range(10)), 1_000_000)
    storage.discard("image.part")
    assert list(directory.iterdir()) == []


def test_a_chunk_that_fits_only_in_part_is_a_failure_too(mount_tmpfs: MountTmpfs) -> None:
    storage = DirectoryStorage(mount_tmpfs("size=256k"), "file://full")
    with pytest.raises(errors.WriteFailed, match="No space left"):
        storage.write("image.part", [b"x" * 1_000_000], 1_000_000)


def test_the_source_s_failure_passes_through_writing(storage: Storage) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise errors.StorageUnavailable("the source is away")

    with pytest.raises(errors.StorageUnavailable, match="the source is away"):
        storage.write("image.part", chunks(), 9)


def test_the_size_of_what_does_not_exist_is_none(storage: Storage, directory: Path) -> None:
    (directory / "image").write_bytes(b"data")
    assert (storage.size("image"), storage.size("other")) == (4, None)


def test_a_size_that_cannot_be_asked_for_is_not_taken_for_none(storage: Storage) -> None:
    with pytest.raises(errors.StorageUnavailable, match="File name too long"):
        storage.size("x" * 256)


def test_reading_what_does_not_exist_is_told(storage: Storage) -> None:
    with (
        pytest.raises(errors.StorageUnavailable, match=r"image: .*No such file"),
        storage.read("image"),
    ):
        pytest.fail("it was read")


def test_removing_what_does_not_exist_is_no_error(storage: Storage, directory: Path) -> None:
    (directory / "kept").touch()
    storage.remove("image")
    assert _content(directory) == {"kept": b""}


def test_what_cannot_be_removed_is_told(mount_tmpfs: MountTmpfs) -> None:
    storage = DirectoryStorage(mount_tmpfs("size=256k"), "file://there")
    storage.local_path("image").mkdir()
    with pytest.raises(errors.WriteFailed, match="file://there/image cannot be removed"):
        storage.remove("image")


def test_zeros_become_holes_and_count_for_the_size(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path, "file://dir")
    chunks = [bytes(1_000_000), b"some", bytes(2_000_000), b"data", bytes(4_000_000)]
    storage.write("image", chunks, 7_000_008)
    assert (tmp_path / "image").read_bytes() == b"".join(chunks)
    assert (tmp_path / "image").stat().st_blocks * 512 < 100_000


# what others who can write to the directory may put there


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"a disk")
    return path


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda path, victim: path.symlink_to(victim),
    "dangling link": lambda path, victim: path.symlink_to(victim.with_name("new")),
    "FIFO": lambda path, victim: os.mkfifo(path),
    "directory": lambda path, victim: path.mkdir(),
}
any_kind = pytest.mark.parametrize("kind", KINDS)


@any_kind
@pytest.mark.parametrize("name", ["image.json", "node/image.json"])
def test_nothing_is_written_to_what_is_no_file(
    storage: Storage, directory: Path, victim: Path, kind: str, name: str
) -> None:
    storage.make_collection("node")
    KINDS[kind](directory / name, victim)
    with pytest.raises(errors.WriteFailed, match=r"writing file://.*/%s failed" % name):
        storage.write(name, [b"{}"], 2)
    with (
        pytest.raises(errors.WriteFailed, match=r"%s cannot be opened" % name),
        storage.local_file(name),
    ):
        pytest.fail("it was opened")
    assert victim.read_bytes() == b"a disk"
    assert not victim.with_name("new").exists()


def test_a_fifo_that_has_a_reader_gets_nothing(storage: Storage, directory: Path) -> None:
    os.mkfifo(directory / "image.json")
    reader = os.open(directory / "image.json", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(errors.WriteFailed, match="no regular file: see who else can write"):
            storage.write("image.json", [b"{}"], 2)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_another_name_of_a_file_is_not_written_through(
    storage: Storage, directory: Path, victim: Path
) -> None:
    (directory / "image.json").hardlink_to(victim)
    with pytest.raises(errors.WriteFailed, match="a link, or no regular file"):
        storage.write("image.json", [b"{}"], 2)
    assert victim.read_bytes() == b"a disk"


@any_kind
def test_what_is_no_file_is_not_read_and_has_no_size(
    storage: Storage, directory: Path, victim: Path, kind: str
) -> None:
    KINDS[kind](directory / "image", victim)
    with (
        pytest.raises(errors.StorageUnavailable, match=r"/image: .*no regular file"),
        storage.read("image"),
    ):
        pytest.fail("it was read")
    with pytest.raises(errors.StorageUnavailable, match=r"/image: it is a link, or no regular"):
        storage.size("image")


@any_kind
@pytest.mark.parametrize("taken", ["image", "image.json", "image.part"])
def test_a_name_is_taken_by_whatever_has_it(
    storage: Storage, directory: Path, victim: Path, kind: str, taken: str
) -> None:
    KINDS[kind](directory / taken, victim)
    with pytest.raises(errors.InvalidRequest, match="%s exists" % taken):
        storage.claim("image")


def test_what_took_the_name_of_a_part_gets_no_other(
    storage: Storage, directory: Path, victim: Path
) -> None:
    storage.claim("image")
    (directory / "image.part").unlink()
    (directory / "image.part").symlink_to(victim)
    with pytest.raises(errors.StorageUnavailable, match=r"image\.part: it is a link"):
        storage.publish("image", victim.stat().st_size)
    storage.abandon("image")
    assert list(directory.iterdir()) == []
    assert victim.read_bytes() == b"a disk"


def test_a_collection_that_is_a_link_is_not_entered(
    storage: Storage, directory: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "image").write_bytes(b"older")
    (directory / "node").symlink_to(outside)
    with pytest.raises(errors.StorageUnavailable, match="node cannot be made: File exists"):
        storage.make_collection("node")
    for action, error in (
        (lambda: storage.create("node/new"), errors.StorageUnavailable),
        (lambda: storage.size("node/image"), errors.StorageUnavailable),
        (lambda: storage.write("node/image", [b"new"], 3), errors.WriteFailed),
        (lambda: storage.rename("node/image", "image"), errors.WriteFailed),
        (lambda: storage.remove("node/image"), errors.WriteFailed),
    ):
        with pytest.raises(error, match="Not a directory"):
            action()
    assert _content(outside) == {"image": b"older"}


def test_a_program_writes_the_file_that_was_opened_whatever_has_its_name_now(
    storage: Storage, directory: Path, victim: Path
) -> None:
    storage.claim("image")
    with storage.local_file("image.part") as path:
        assert path is not None
        (directory / "image.part").rename(directory / "moved")
        (directory / "image.part").symlink_to(victim)
        process.run("sh", "-c", 'echo data > "$1"', "sh", str(path))
    assert (directory / "moved").read_bytes() == b"data\n"
    assert victim.read_bytes() == b"a disk"


def test_an_interrupt_while_the_directory_is_synced_leaves_no_name(
    storage: Storage, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    storage.claim("image")
    storage.write("image.part", [b"data"], 4)
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.publish("image", 4)
    assert list(directory.iterdir()) == []
