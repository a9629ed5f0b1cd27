# SPDX-License-Identifier: Apache-2.0
"""Before a capture image and storage are ready; after it the image is in Glance, and only there."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conductor_client import errors
from conductor_client.agent import Captured
from conductor_client.collection import is_probe
from conductor_client.delivery import CaptureOptions
from conductor_client.ironic import work
from conductor_client.ironic.config import Settings
from conductor_client.ironic.image_access import NotYet
from conductor_client.ironic.record import Phase, Record
from snapshot_core.progress import Progress
from snapshot_core.storage.directory import DirectoryStorage
from tests.unit.conductor_client.fake_agent import result_about
from tests.unit.conductor_client.test_images import FakeGlance

NODE = "0c8a2a3e-52c8-4e0d-9c3b-0a1d2c3b4a59"
IMAGE = "8e0d5c5e-6b1f-4c39-9f3f-0f5a9d1c7b11"
DATA = b"an image, as far as the conductor cares"
SHA512 = hashlib.sha512(DATA).hexdigest()


def ignore(_progress: Progress) -> None:
    pass


class Glance(FakeGlance):
    """One image of the project ``project``."""

    def __init__(self, status: str = "queued", **more: Any) -> None:
        super().__init__(status)
        assert self.image is not None
        vars(self.image).update({"owner": "project", "visibility": "private", **more})


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return work.empty_scratch(str(tmp_path / "work"), "host")


@pytest.fixture
def make(storage: Path) -> Callable[..., work.Task]:
    def make(glance: FakeGlance, image_ref: str = IMAGE, min_free: int = 0) -> work.Task:
        settings = Settings(
            storage_url="file://%s" % storage, storage_ca=None, storage_auth_file=None,
            agent_auth_file=None, storage_token_key_file=None, writer="auto", timeout=60,
            encryption_key_file=None,
            max_concurrent_snapshots=8, max_concurrent_uploads=4, retention=60, work_dir="/none",
            min_free=min_free, poll_interval=5, clean_up_interval=60,
        )  # fmt: skip
        record = Record.new(image_ref, CaptureOptions(), 0)
        connection = SimpleNamespace(image=glance)
        return work.Task(NODE, {"project"}, record, settings, lambda: connection)

    return make


def captured(storage: Path, task: work.Task, data: bytes = DATA, **result: Any) -> work.Task:
    """Store an image as the agent does, and return the task after that."""
    name = task.record.image_name
    (storage / NODE).mkdir(exist_ok=True)
    (storage / NODE / name).write_bytes(data)
    (storage / NODE / (name + ".json")).write_text("{}")
    found = Captured.parse({**result_about(name, DATA), **result})
    return replace(task, record=task.record.turned(Phase.UPLOADING, 0, captured=found))


def names(storage: Path) -> list[str]:
    return sorted(str(path.relative_to(storage)) for path in storage.rglob("*"))


def test_the_checks_leave_only_the_node_s_collection(
    make: Callable[..., work.Task], storage: Path
) -> None:
    task = make(Glance())
    work.prepare(task, ignore)
    work.prepare(task, ignore)
    assert names(storage) == [NODE]


def test_what_a_killed_conductor_left_of_its_checks_is_no_obstacle(
    make: Callable[..., work.Task], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(Glance())
    with monkeypatch.context() as killed:
        killed.setattr(DirectoryStorage, "remove", lambda *_: None)
        work.prepare(task, ignore)
    (left,) = [name for name in names(storage) if name != NODE]
    assert is_probe(Path(left).name)
    work.prepare(task, ignore)
    assert names(storage) == [NODE, left]


@pytest.mark.parametrize(
    ("glance", "error"),
    [
        (Glance(owner="other"), errors.InvalidRequest),
        (Glance(visibility="public"), errors.InvalidRequest),
        (Glance("active"), errors.ImageNotQueued),
    ],
)
def test_a_wrong_image_is_refused_before_the_storage_is_touched(
    make: Callable[..., work.Task], storage: Path, glance: Glance,
    error: type[errors.SnapshotError],
) -> None:  # fmt: skip
    with pytest.raises(error):
        work.prepare(make(glance), ignore)
    assert names(storage) == []


def test_an_unknown_option_is_refused_before_glance_and_storage_hear_of_it(
    make: Callable[..., work.Task], storage: Path
) -> None:
    task = make(Glance("active"))
    options = CaptureOptions(image_format="x/../..")
    with pytest.raises(errors.InvalidRequest, match="the argument image_format is"):
        work.prepare(replace(task, record=replace(task.record, options=options)), ignore)
    assert names(storage) == []


def test_a_storage_that_is_not_there_is_told(make: Callable[..., work.Task], storage: Path) -> None:
    storage.rmdir()
    with pytest.raises(errors.StorageUnavailable):
        work.prepare(make(Glance()), ignore)


def test_a_captured_image_goes_into_glance_and_from_the_storage(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = Glance()
    task = make(glance)
    work.upload(captured(storage, task), scratch, ignore)
    assert glance.image is not None
    assert (glance.image.status, glance.image.hash_value) == ("active", SHA512)
    assert names(storage) == [NODE]


def test_an_image_that_has_the_data_already_is_only_removed_from_the_storage(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = Glance("active", hash_algo="sha512", hash_value=SHA512)
    task = make(glance)
    work.upload(captured(storage, task), scratch, ignore)
    assert glance.properties == {}
    assert names(storage) == [NODE]


@pytest.mark.parametrize(
    ("glance", "error"),
    [
        (Glance(owner="other"), errors.InvalidRequest),
        (Glance(visibility="public"), errors.InvalidRequest),
        (Glance("active", hash_algo="sha512", hash_value="other"), errors.ImageNotQueued),
        (Glance("saving"), NotYet),
    ],
)
def test_an_image_that_was_changed_since_gets_nothing_and_the_captured_one_stays(
    make: Callable[..., work.Task], storage: Path, scratch: Path, glance: Glance,
    error: type[errors.SnapshotError],
) -> None:  # fmt: skip
    task = make(glance)
    ready = captured(storage, task)
    with pytest.raises(error):
        work.upload(ready, scratch, ignore)
    assert glance.properties == {}
    assert len(names(storage)) == 3


class SharedGlance(Glance):
    """Another conductor sends the same data, and is quicker; what the image is like after it."""

    def __init__(self, **after: Any) -> None:
        super().__init__()
        self._after = after
        self.answer = 409

    def update_image(self, image_id: str, **properties: Any) -> None:
        vars(self.image).update(self._after)


def test_an_image_that_another_conductor_uploaded_meanwhile_is_right(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = SharedGlance(status="active", hash_algo="sha512", hash_value=SHA512)
    work.upload(captured(storage, make(glance)), scratch, ignore)
    assert names(storage) == [NODE]


def test_an_image_that_others_data_came_into_meanwhile_is_not_right(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = SharedGlance(status="active", hash_algo="sha512", hash_value="other")
    with pytest.raises(errors.UploadFailed, match="answered 409"):
        work.upload(captured(storage, make(glance)), scratch, ignore)
    assert len(names(storage)) == 3


def test_an_upload_that_another_conductor_is_still_at_is_waited_for(
    make: Callable[..., work.Task], storage: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conductor_client.images._SETTLE_S", 0)
    with pytest.raises(NotYet):
        work.upload(captured(storage, make(SharedGlance(status="saving"))), scratch, ignore)
    assert len(names(storage)) == 3


def test_where_nothing_was_captured_there_is_nothing_to_upload(
    make: Callable[..., work.Task], scratch: Path
) -> None:
    with pytest.raises(errors.InvalidRequest, match="take a new snapshot"):
        work.upload(make(Glance()), scratch, ignore)


def test_a_damaged_image_does_not_get_into_glance(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = Glance()
    task = make(glance)
    ready = captured(storage, task, data=DATA[:-1] + b"X")
    with pytest.raises(errors.StorageMismatch):
        work.upload(ready, scratch, ignore)
    assert glance.image is not None
    assert glance.image.status == "queued"


def test_a_raw_image_arrives_as_qcow2(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = Glance()
    task = make(glance)
    work.upload(captured(storage, task, disk_format="raw"), scratch, ignore)
    assert glance.properties["disk_format"] == "qcow2"
    assert list(scratch.iterdir()) == []


def test_a_conversion_that_would_fill_the_disk_is_refused(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = Glance()
    task = make(glance, min_free=1 << 62)
    ready = captured(storage, task, disk_format="raw")
    with pytest.raises(errors.UploadFailed, match=r"min_free wants 4611686018427387904"):
        work.upload(ready, scratch, ignore)
    assert glance.properties == {}
    assert list(scratch.iterdir()) == []


def test_what_needs_no_conversion_needs_no_room(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    task = make(Glance(), min_free=1 << 62)
    work.upload(captured(storage, task), scratch, ignore)


def test_an_upload_that_is_not_wanted_any_more_ends(
    make: Callable[..., work.Task], storage: Path, scratch: Path
) -> None:
    glance = Glance()
    task = make(glance)

    def refuse(_progress: Progress) -> None:
        raise errors.UploadFailed("not wanted")

    ready = captured(storage, task)
    with pytest.raises(errors.UploadFailed, match="not wanted"):
        work.upload(ready, scratch, refuse)
    assert glance.image is not None
    assert glance.image.status == "queued"


def test_what_a_conductor_left_in_its_scratch_directory_is_removed(tmp_path: Path) -> None:
    first = work.empty_scratch(str(tmp_path), "host")
    other = work.empty_scratch(str(tmp_path), "other")
    for directory in (first, other):
        (directory / "ipa-snapshot-x").mkdir()
    assert work.empty_scratch(str(tmp_path), "host") == first
    assert list(first.iterdir()) == []
    assert len(list(other.iterdir())) == 1
    assert first.stat().st_mode & 0o077 == 0


def test_a_scratch_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.UploadFailed, match="cannot be used"):
        work.empty_scratch(str(tmp_path / "file"), "host")


def test_the_record_s_own_name_is_the_one_in_the_storage(
    make: Callable[..., work.Task],
) -> None:
    task = make(Glance())
    other = replace(task, node="another")
    assert task.stored_name == "%s/%s" % (NODE, task.record.image_name)
    assert other.stored_name == "another/%s" % task.record.image_name
