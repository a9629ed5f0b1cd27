# SPDX-License-Identifier: Apache-2.0
"""Progress beside the image: there at once, refreshed, gone after a failure, never in the way."""

import json
import threading
from collections.abc import Iterable

import pytest

from ipa_snapshot import progress_object
from ipa_snapshot.progress_object import ProgressObject
from snapshot_core import errors
from snapshot_core.progress import Progress
from tests.unit.memory_storage import MemoryStorage


class WatchedStorage(MemoryStorage):
    """A storage that tells when something was written, and may fail at it."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.tried = threading.Semaphore(0)

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        self.tried.release()
        if self.fails:
            raise errors.WriteFailed("full")
        super().write(name, chunks, length)

    def wait(self) -> None:
        assert self.tried.acquire(timeout=30)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_object, "_INTERVAL_S", 0.01)


def test_the_object_is_there_at_once_and_follows_the_progress() -> None:
    storage = WatchedStorage()
    with ProgressObject(storage, "image") as shown:
        shown.begin()
        storage.wait()
        shown(Progress("stream", 100, 50, 20, 7))
        storage.wait()  # may have begun before
        storage.wait()
    assert json.loads(storage.objects["image.json"]) == {
        "progress": {
            "phase": "stream", "bytes_total": 100, "bytes_done": 50, "bytes_sent": 20, "eta_s": 7,
        }
    }  # fmt: skip


def test_it_is_not_written_any_more_after_its_end() -> None:
    storage = WatchedStorage()
    with ProgressObject(storage, "image") as shown:
        shown.begin()
        storage.wait()
        shown.end()
        storage.objects["image.json"] = b"manifest"
        assert "snapshot-progress" not in {thread.name for thread in threading.enumerate()}
    assert storage.objects == {"image.json": b"manifest"}


def test_after_a_failure_it_is_removed() -> None:
    storage = WatchedStorage()
    with pytest.raises(KeyboardInterrupt), ProgressObject(storage, "image") as shown:
        shown.begin()
        storage.wait()
        raise KeyboardInterrupt
    assert storage.objects == {}


def test_what_was_there_before_it_began_is_someone_else_s() -> None:
    storage = WatchedStorage()
    storage.objects["image.json"] = b"older"
    with (
        pytest.raises(errors.InvalidRequest),
        ProgressObject(storage, "image"),
    ):
        raise errors.InvalidRequest("image.json exists")
    assert storage.objects == {"image.json": b"older"}


def test_a_storage_that_does_not_answer_holds_nobody_up() -> None:
    class Silent(WatchedStorage):
        answers = threading.Event()

        def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
            self.tried.release()
            self.answers.wait()
            MemoryStorage.write(self, name, chunks, length or 0)

    storage = Silent()
    with ProgressObject(storage, "image") as shown:
        shown.begin()
        storage.wait()
        shown(Progress("stream"))  # returns, although the write goes on
        assert storage.objects == {}
        storage.answers.set()


def test_a_storage_that_does_not_take_it_breaks_nothing() -> None:
    storage = WatchedStorage(fails=True)
    with ProgressObject(storage, "image") as shown:
        shown.begin()
        storage.wait()
        storage.wait()
    assert storage.objects == {}


def test_after_a_failure_a_storage_that_hangs_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(WatchedStorage):
        answers = threading.Event()

        def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
            self.tried.release()
            self.answers.wait()

    monkeypatch.setattr(progress_object, "_MOST_S", 0.1)
    storage = Hanging()
    with pytest.raises(errors.WriteFailed), ProgressObject(storage, "image") as shown:
        shown.begin()
        storage.wait()
        raise errors.WriteFailed("the storage hangs")
    assert "snapshot-progress" in {thread.name for thread in threading.enumerate()}
    storage.answers.set()
