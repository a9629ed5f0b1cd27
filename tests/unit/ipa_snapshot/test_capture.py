# SPDX-License-Identifier: Apache-2.0
"""A snapshot into a directory: the result tells the truth, and a failure leaves nothing."""

import contextlib
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ipa_snapshot import capture, errors
from ipa_snapshot.capture import describe_path, take_snapshot
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.request import SnapshotRequest
from snapshot_core.encryption import PrivateKey, PublicKey, decrypted
from snapshot_core.progress import Progress
from tests.lab import disks
from tests.unit.http_server import Answer, AnsweringServer, Request
from tests.unit.snapshot_core.storage.test_webdav import Collection

MIB = 1024 * 1024
IMAGE = "66498c26-a9b5-496c-97a8-5bc08f256155"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


@pytest.fixture
def disk(make_disk: Callable[..., Path]) -> Path:
    path = make_disk(0, 32 * MIB)
    disks.run("sfdisk", "--quiet", path, stdin="label: gpt\nsize=8MiB\n")
    disks.run("mkfs.ext4", "-q", "-E", "offset=%d" % MIB, path, "8M")
    return path


def _request(directory: Path, **options: Any) -> SnapshotRequest:
    return SnapshotRequest.parse("file://%s" % directory, "image", **options)


@pytest.mark.parametrize(
    ("options", "writer", "disk_format", "compression"),
    [
        ({}, "stream", "qcow2", "zstd"),
        ({"writer": "nfs"}, "nfs", "qcow2", "zstd"),
        ({"writer": "davfs", "compression": "zlib"}, "davfs", "qcow2", "zlib"),
        ({"writer": "dd"}, "dd", "raw", "none"),
        ({"writer": "nfs", "image_format": "raw"}, "nfs", "raw", "none"),
        ({"image_format": "raw"}, "stream", "raw", "none"),
        ({"compression": "none"}, "stream", "qcow2", "none"),
    ],
)
def test_the_result_tells_what_is_stored(
    directory: Path,
    disk: Path,
    options: dict[str, Any],
    writer: str,
    disk_format: str,
    compression: str,
) -> None:
    result = take_snapshot(_request(directory, **options), describe_path(str(disk))).to_wire()
    image = directory / "image"
    assert sorted(path.name for path in directory.iterdir()) == ["image", "image.json"]
    assert json.loads((directory / "image.json").read_bytes()) == result
    assert result["image_name"] == "image"
    assert (result["writer"], result["disk_format"]) == (writer, disk_format)
    assert result["compression"] == compression
    assert (result["size"], result["virtual_size"]) == (image.stat().st_size, 32 * MIB)
    digest = hashlib.sha512(image.read_bytes()).hexdigest()
    assert result["checksum"] == {"algorithm": "sha512", "value": digest}
    assert result["device"]["name"] == str(disk)
    assert [(one["number"], one["size"], one["fs"]) for one in result["partitions"]] == [
        (1, 8 * MIB, "ext4")
    ]
    disks.run("qemu-img", "compare", "-f", "raw", "-F", disk_format, disk, image)


@pytest.mark.parametrize("writer", ["stream", "dd"])
def test_an_image_is_stored_so_that_the_holder_of_the_key_alone_can_read_it(
    directory: Path, disk: Path, tmp_path: Path, writer: str
) -> None:
    key = PrivateKey(X25519PrivateKey.generate())
    request = _request(directory, writer=writer, encrypt_for=str(key.public))
    result = take_snapshot(request, describe_path(str(disk))).to_wire()
    assert result["encryption"] == {
        "method": "x25519-aes256gcm",
        "public_key": str(key.public),
    }
    stored = (directory / "image").read_bytes()
    image = b"".join(decrypted([stored], key, "image"))
    assert result["size"] == len(image)
    assert result["checksum"]["value"] == hashlib.sha512(image).hexdigest()
    (tmp_path / "decrypted").write_bytes(image)
    disks.run(
        "qemu-img", "compare", "-f", "raw", "-F", result["disk_format"], disk,
        tmp_path / "decrypted",
    )  # fmt: skip


def test_a_writer_that_cannot_encrypt_stores_nothing(directory: Path, disk: Path) -> None:
    request = _request(directory, writer="nfs", encrypt_for=str(PublicKey(bytes(range(32)))))
    with pytest.raises(errors.InvalidRequest, match="cannot encrypt"):
        take_snapshot(request, describe_path(str(disk)))
    assert list(directory.iterdir()) == []


def test_the_manifest_tells_what_the_image_is_there_for(directory: Path, disk: Path) -> None:
    purpose = capture.Purpose.parse("a-node", IMAGE, 60)
    take_snapshot(_request(directory), describe_path(str(disk)), purpose=purpose)
    told = json.loads((directory / "image.json").read_bytes())
    assert (told["node"], told["image_ref"], told["keep_s"]) == ("a-node", IMAGE, 60)


@pytest.mark.parametrize("image_ref", [IMAGE, IMAGE.upper(), "file:///srv/image", None])
def test_what_is_not_known_of_the_purpose_is_not_told(image_ref: str | None) -> None:
    told = capture.Purpose.parse("a-node", image_ref, None).to_wire()
    assert told == {"node": "a-node", **({"image_ref": image_ref} if image_ref else {})}


@pytest.mark.parametrize(
    "image_ref",
    ["", "image", 7, "https://user:s3cret@host/x", "https://host/x?sig=s3cret", "file:x"],
)
def test_a_purpose_is_a_reference_without_secrets(image_ref: object) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        capture.Purpose.parse("a-node", image_ref, None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("keep_s", [0, -1, 1.5, "60", True])
def test_a_time_to_keep_is_a_number_of_seconds(keep_s: object) -> None:
    with pytest.raises(errors.InvalidRequest, match="keep_s"):
        capture.Purpose.parse("a-node", None, keep_s)


def test_progress_is_told_from_the_beginning_to_the_end(directory: Path, disk: Path) -> None:
    told: list[Progress] = []
    take_snapshot(_request(directory), describe_path(str(disk)), on_progress=told.append)
    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases == ["prepare", "map", "stream", "publish"]


def test_meanwhile_the_progress_lies_where_the_manifest_will(directory: Path, disk: Path) -> None:
    found: list[dict[str, Any]] = []

    def look(progress: Progress) -> None:
        deadline = time.monotonic() + 30
        while progress.phase == "stream" and not found:
            assert time.monotonic() < deadline
            with contextlib.suppress(FileNotFoundError, ValueError):  # not there yet, or not whole
                found.append(json.loads((directory / "image.json").read_bytes()))

    result = take_snapshot(_request(directory), describe_path(str(disk)), on_progress=look)
    assert found[0].keys() == {"progress"}
    assert Progress.parse(found[0]["progress"]) is not None
    assert json.loads((directory / "image.json").read_bytes()) == result.to_wire()


@pytest.mark.parametrize("taken", ["image", "image.part", "image.json"])
def test_an_image_that_exists_is_neither_overwritten_nor_removed(
    directory: Path, disk: Path, taken: str
) -> None:
    (directory / taken).write_bytes(b"older")
    with pytest.raises(errors.InvalidRequest, match="exists"):
        take_snapshot(_request(directory), describe_path(str(disk)))
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {taken: b"older"}


@pytest.mark.parametrize("writer", ["nfs", "dd"])
def test_a_full_storage_is_left_empty(
    disk: Path, mount_tmpfs: Callable[..., Path], writer: str
) -> None:
    directory = mount_tmpfs("size=128k")
    with pytest.raises(errors.WriteFailed):
        take_snapshot(
            _request(directory, writer=writer, compression="none"), describe_path(str(disk))
        )
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("writer", "phase"),
    [
        ("nfs", "convert"), ("nfs", "digest"), ("nfs", "publish"),
        ("stream", "map"), ("stream", "stream"), ("stream", "publish"),
    ],
)  # fmt: skip
def test_an_interrupt_leaves_nothing(directory: Path, disk: Path, writer: str, phase: str) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_snapshot(
            _request(directory, writer=writer), describe_path(str(disk)), on_progress=interrupt
        )
    assert list(directory.iterdir()) == []


class InterruptsAtTheEnd(Collection):
    """Holds the first progress back until the image is published, and interrupts us then."""

    def _put(self, name: str, request: Request) -> Answer:
        answer = super()._put(name, request)
        if name == "image.json" and "image" not in self.objects:
            deadline = time.monotonic() + 30
            while "image" not in self.objects and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return answer


def test_an_interrupt_between_the_image_and_its_manifest_leaves_nothing(
    serve: Callable[..., AnsweringServer], disk: Path
) -> None:
    storage = InterruptsAtTheEnd()
    request = SnapshotRequest.parse(serve(storage).url + "/dir", "image", writer="dd")
    with pytest.raises(KeyboardInterrupt):
        take_snapshot(request, describe_path(str(disk)))
    assert storage.objects == {}


def test_what_fails_as_soon_as_the_name_is_claimed_leaves_nothing(
    directory: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "snapshot-progress":
            raise RuntimeError("can't start new thread")
        starts(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"):
        take_snapshot(_request(directory), describe_path(str(disk)))
    assert list(directory.iterdir()) == []


def _watches() -> bool:
    return "snapshot-stop" in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("writer", "phase"),
    [("nfs", "prepare"), ("nfs", "convert"), ("nfs", "publish"), ("dd", "stream")],
)
def test_a_snapshot_that_is_not_wanted_any_more_ends_and_leaves_nothing(
    directory: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, writer: str, phase: str
) -> None:
    monkeypatch.setattr(capture, "_STOP_INTERVAL_S", 0.01)

    def ask_to_stop(progress: Progress) -> None:
        if progress.phase == phase:
            (directory / "image.stop").touch()
            deadline = time.monotonic() + 30
            while _watches() and time.monotonic() < deadline:  # until it has found it
                time.sleep(0.01)

    request = _request(directory, writer=writer)
    with pytest.raises(errors.Cancelled, match="image is not wanted any more"):
        take_snapshot(request, describe_path(str(disk)), on_progress=ask_to_stop)
    assert [path.name for path in directory.iterdir()] == ["image.stop"]


def test_nobody_looks_for_an_end_after_the_end(directory: Path, disk: Path) -> None:
    watched: list[bool] = []
    take_snapshot(
        _request(directory), describe_path(str(disk)),
        on_progress=lambda _progress: watched.append(_watches()),
    )  # fmt: skip
    assert all(watched)
    assert not _watches()


class SlowToSay(Collection):
    """Hangs, or answers 503, when it is asked whether there is an object that asks to stop."""

    def __init__(self, answer: Answer | None) -> None:
        super().__init__()
        self.answer = answer
        self.asked = 0
        self.over = threading.Event()

    def _head(self, name: str, request: Request) -> Answer:
        if name != "image.stop":
            return self._get(name, request)
        self.asked += 1
        if self.answer is None:
            self.over.wait(60)
        return self.answer or Answer(404)


@pytest.mark.parametrize("writer", ["dd", "stream"])
@pytest.mark.parametrize("is_interrupted", [False, True])
@pytest.mark.parametrize(
    "answer", [None, Answer(503), Answer(503, headers={"Retry-After": "20"})]
)  # fmt: skip
def test_a_storage_that_does_not_say_whether_to_stop_holds_nobody_up(
    serve: Callable[..., AnsweringServer], disk: Path, monkeypatch: pytest.MonkeyPatch,
    answer: Answer | None, is_interrupted: bool, writer: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(capture, "_STOP_INTERVAL_S", 0.05)
    monkeypatch.setattr(capture, "_MOST_S", 0.5)
    storage = SlowToSay(answer)

    def go_on(progress: Progress) -> None:
        if progress.phase == "stream":
            deadline = time.monotonic() + 10
            while storage.asked < (1 if answer is None else 3) and time.monotonic() < deadline:
                time.sleep(0.01)
            if is_interrupted:
                raise KeyboardInterrupt

    request = SnapshotRequest.parse(serve(storage).url + "/dir", "image", writer=writer)
    began = time.monotonic()
    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            take_snapshot(request, describe_path(str(disk)), on_progress=go_on)
        assert storage.objects == {}
    else:
        take_snapshot(request, describe_path(str(disk)), on_progress=go_on)
        assert sorted(storage.objects) == ["image", "image.json"]
    assert time.monotonic() - began < 15
    assert storage.asked >= (1 if answer is None else 3)
    storage.over.set()


def test_a_disk_of_another_size_than_the_chosen_one_is_refused(directory: Path, disk: Path) -> None:
    with pytest.raises(errors.DeviceNotFound, match="has 33554432 bytes, expected 512"):
        take_snapshot(_request(directory), BlockDevice(str(disk), 512))
    assert list(directory.iterdir()) == []


def test_a_storage_that_is_not_there_is_told(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(errors.StorageUnavailable, match="none is not an existing directory"):
        take_snapshot(_request(tmp_path / "none"), describe_path(str(disk)))


def test_a_path_is_described_by_what_is_there(make_disk: Callable[..., Path]) -> None:
    path = make_disk()
    with disks.LoopDevice(path, sector_size=4096) as loop:
        assert describe_path(loop.path) == BlockDevice(loop.path, MIB, logical_sector_size=4096)
    assert describe_path(str(path)) == BlockDevice(str(path), MIB)
