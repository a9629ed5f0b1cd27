# SPDX-License-Identifier: Apache-2.0
"""A finished image goes whole to its place, or the place still waits for data."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import openstack.exceptions
import pytest

from conductor_client import errors
from conductor_client.images import GlanceImage, ImageFacts, ImageFile, parse_image_ref
from conductor_client.verified import VerifiedImage
from tests.unit.memory_storage import MemoryStorage

DATA = b"0123456789"
SHA512 = hashlib.sha512(DATA).hexdigest()
FACTS = ImageFacts("qcow2", 5 * 1024**3 + 1)


def _image(stored: bytes = DATA) -> VerifiedImage:
    return VerifiedImage(MemoryStorage({"image": stored}, 4), "image", len(DATA), SHA512)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# A file


def test_an_image_file_has_its_name_when_it_is_whole(directory: Path) -> None:
    target = ImageFile(directory / "new.qcow2")
    target.check()
    assert _content(directory) == {}
    target.store(_image(), FACTS)
    assert _content(directory) == {"new.qcow2": DATA}


@pytest.mark.parametrize("taken", ["new.qcow2", "new.qcow2.part"])
def test_a_file_that_exists_is_refused_and_stays(directory: Path, taken: str) -> None:
    (directory / taken).write_bytes(b"older")
    target = ImageFile(directory / "new.qcow2")
    for use in (target.check, lambda: target.store(_image(), FACTS)):
        with pytest.raises(errors.InvalidRequest, match="exists"):
            use()
    assert _content(directory) == {taken: b"older"}


def test_a_directory_that_does_not_exist_is_told(directory: Path) -> None:
    with pytest.raises(errors.StorageUnavailable, match="is not an existing directory"):
        ImageFile(directory / "none" / "new.qcow2").check()


@pytest.mark.parametrize("stored", [b"0123456780", b"01234567", b"0123456789X", b""])
def test_a_wrong_image_leaves_nothing(directory: Path, stored: bytes) -> None:
    with pytest.raises(errors.StorageMismatch):
        ImageFile(directory / "new.qcow2").store(_image(stored), FACTS)
    assert _content(directory) == {}


def test_a_full_file_system_is_a_failed_upload_and_left_empty(
    mount_tmpfs: Callable[..., Path],
) -> None:
    directory = mount_tmpfs("size=64k")
    data = os.urandom(1024 * 1024)
    image = VerifiedImage(
        MemoryStorage({"image": data}, 50_000), "image", len(data),
        hashlib.sha512(data).hexdigest(),
    )  # fmt: skip
    with pytest.raises(errors.UploadFailed, match="No space left on device"):
        ImageFile(directory / "new.qcow2").store(image, FACTS)
    assert list(directory.iterdir()) == []


def test_an_interrupt_leaves_nothing(directory: Path) -> None:
    class Interrupted(VerifiedImage):
        def __iter__(self) -> Any:
            yield DATA[:4]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        image = Interrupted(MemoryStorage(), "image", len(DATA), SHA512)
        ImageFile(directory / "new.qcow2").store(image, FACTS)
    assert _content(directory) == {}


# The reference


def test_a_file_url_is_a_file(directory: Path) -> None:
    target = parse_image_ref("file://%s/new%%20image.qcow2" % directory)
    target.check()
    target.store(_image(), FACTS)
    assert _content(directory) == {"new image.qcow2": DATA}


@pytest.mark.parametrize(
    "image_ref",
    ["", "image", "file:", "file:///", "file://host/image", "file:relative", "file:///tmp",
     "file:///tmp/", "file:///a/../b", "http://host/image", "/tmp/image", "1234",
     "6f1c9e6e-7b5c-4c5c-9c53-3b8b6e1f0d2", "file:///a%00b"],
)  # fmt: skip
def test_any_other_reference_is_refused(image_ref: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        parse_image_ref(image_ref)


def test_without_credentials_for_openstack_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UploadFailed, match="set OS_CLOUD"):
        parse_image_ref(str(uuid4()))


# Glance


class FakeGlance:
    """What GlanceImage uses of openstacksdk's image proxy, for one image."""

    def __init__(self, status: str = "queued") -> None:
        self.image: SimpleNamespace | None = SimpleNamespace(
            status=status, size=None, hash_algo=None, hash_value=None
        )
        self.properties: dict[str, Any] = {}
        self.spoil: Callable[[bytes], bytes] = lambda data: data
        self.answer = 204
        self.broken: Exception | None = None
        self.cannot_delete: Exception | None = None
        self.outages_after_upload = 0

    def get_image(self, image_id: str) -> SimpleNamespace:
        if self.outages_after_upload and _status(self) == "active":
            self.outages_after_upload -= 1
            raise openstack.exceptions.HttpException("bad gateway")
        if self.image is None:
            raise openstack.exceptions.NotFoundException("no such image")
        return SimpleNamespace(**vars(self.image), properties=self.properties)

    def update_image(self, image_id: str, **properties: Any) -> None:
        self.properties = properties

    def put(
        self, path: str, data: Any, headers: Any, raise_exc: bool, connect_retries: int
    ) -> SimpleNamespace:
        assert connect_retries == 0  # else data would be sent twice
        if self.answer == 204:
            taken = self.spoil(b"".join(data))
            self.image = SimpleNamespace(
                status="active", size=len(taken), hash_algo="sha512",
                hash_value=hashlib.sha512(taken).hexdigest(),
            )  # fmt: skip
        if self.broken is not None:
            raise self.broken
        return SimpleNamespace(status_code=self.answer)

    def delete_image(self, image_id: str) -> None:
        if self.cannot_delete is not None:
            raise self.cannot_delete
        self.image = None


def _target(glance: FakeGlance) -> GlanceImage:
    return GlanceImage("an-id", SimpleNamespace(image=glance))  # type: ignore[arg-type]


def _status(glance: FakeGlance) -> str | None:
    return glance.image.status if glance.image else None


def test_a_queued_image_receives_the_data_and_its_properties() -> None:
    glance = FakeGlance()
    _target(glance).store(_image(), FACTS)
    assert _status(glance) == "active"
    assert glance.properties == {
        "disk_format": "qcow2", "container_format": "bare", "min_disk": 6,
        "image_type": "snapshot",
    }  # fmt: skip


def test_an_image_that_has_a_type_keeps_it() -> None:
    glance = FakeGlance()
    glance.properties = {"image_type": "backup"}
    _target(glance).store(_image(), FACTS)
    assert glance.properties["image_type"] == "backup"


@pytest.mark.parametrize("status", ["active", "saving", "deleted", "importing", "killed"])
def test_an_image_that_waits_for_nothing_is_refused(status: str) -> None:
    glance = FakeGlance(status)
    for use in (_target(glance).check, lambda: _target(glance).store(_image(), FACTS)):
        with pytest.raises(errors.ImageNotQueued, match="an-id is %s, expected queued" % status):
            use()
    assert _status(glance) == status


def test_an_image_that_does_not_exist_is_refused() -> None:
    glance = FakeGlance()
    glance.image = None
    with pytest.raises(errors.ImageNotQueued, match="there is no image an-id"):
        _target(glance).check()


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "credentials"), (403, "may not upload"), (409, "not queued"), (413, "quota"),
     (415, "another format"), (503, "does not take data"), (500, "see Glance's log")],
)  # fmt: skip
def test_a_refused_upload_is_told_with_the_advice(status: int, advice: str) -> None:
    glance = FakeGlance()
    glance.answer = status
    with pytest.raises(errors.UploadFailed, match="answered %d .*%s" % (status, advice)):
        _target(glance).store(_image(), FACTS)
    assert _status(glance) == "queued"


def test_a_wrong_image_never_becomes_active() -> None:
    glance = FakeGlance()
    with pytest.raises(errors.StorageMismatch):
        _target(glance).store(_image(b"0123456780"), FACTS)
    assert _status(glance) == "queued"


def test_an_upload_that_broke_off_is_told_and_the_image_still_waits() -> None:
    glance = FakeGlance()
    glance.answer, glance.broken = 0, openstack.exceptions.SDKException("connection reset")
    with pytest.raises(errors.UploadFailed, match="broke off: connection reset"):
        _target(glance).store(_image(), FACTS)
    assert _status(glance) == "queued"


def test_an_upload_whose_answer_was_lost_is_a_success_if_the_image_is_whole() -> None:
    glance = FakeGlance()
    glance.broken = openstack.exceptions.SDKException("connection reset")
    _target(glance).store(_image(), FACTS)
    assert _status(glance) == "active"


def test_what_somebody_else_gave_the_image_meanwhile_is_left() -> None:
    class Busy(FakeGlance):
        """Takes another upload, and breaks ours off."""

        def put(self, path: str, data: Any, **_more: Any) -> SimpleNamespace:
            next(iter(data))
            self.image = SimpleNamespace(
                status="active", size=20, hash_algo="sha512", hash_value="another"
            )
            raise openstack.exceptions.SDKException("connection reset")

    glance = Busy()
    with pytest.raises(errors.ImageNotQueued, match="given other data meanwhile"):
        _target(glance).store(_image(), FACTS)
    assert _status(glance) == "active"


def test_a_glance_that_is_away_after_the_upload_is_asked_again() -> None:
    glance = FakeGlance()
    glance.outages_after_upload = 1
    _target(glance).store(_image(), FACTS)
    assert glance.outages_after_upload == 0


def test_an_image_tells_whether_it_holds_these_very_bytes() -> None:
    glance = FakeGlance()
    assert not _target(glance).holds(SHA512)
    _target(glance).store(_image(), FACTS)
    assert _target(glance).holds(SHA512)
    assert not _target(glance).holds("0" * 128)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"X" + data[1:]])
def test_an_image_that_glance_holds_differently_is_deleted(
    spoil: Callable[[bytes], bytes],
) -> None:
    glance = FakeGlance()
    glance.spoil = spoil
    with pytest.raises(errors.StorageMismatch, match="an-id"):
        _target(glance).store(_image(), FACTS)
    assert glance.image is None


def test_a_wrong_image_that_cannot_be_deleted_is_still_told_to_be_wrong() -> None:
    glance = FakeGlance()
    glance.spoil = lambda data: data[:-1]
    glance.cannot_delete = openstack.exceptions.ForbiddenException("it is protected")
    with pytest.raises(errors.StorageMismatch, match="an-id"):
        _target(glance).store(_image(), FACTS)
