# SPDX-License-Identifier: Apache-2.0
"""A real Glance never gets a wrong image, and an image that it did not get stays queued."""

import hashlib
import pathlib
import re
from collections.abc import Iterator

import pytest
from openstack.connection import Connection

from conductor_client import errors
from conductor_client.images import GlanceImage, ImageFacts, parse_image_ref
from conductor_client.verified import VerifiedImage
from snapshot_core.progress import Meter, Progress
from snapshot_core.storage.directory import DirectoryStorage
from tests.lab.disk_maker import MIB
from tests.lab.glance import Glance
from tests.lab.upload_gate import UploadGate

FACTS = ImageFacts("raw", 40 * MIB)


@pytest.fixture
def cloud(glance: Glance) -> Connection:
    return glance.connection()


@pytest.fixture
def gate(glance: Glance) -> Iterator[UploadGate]:
    """What stands between the client and Glance, and sees what is sent."""
    with UploadGate(glance.port) as running:
        yield running


@pytest.fixture
def cloud_behind(gate: UploadGate, glance: Glance) -> Connection:
    """A connection to Glance through the gate."""
    return glance.connection(gate.url)


@pytest.fixture
def image_id(cloud: Connection) -> str:
    created: str = cloud.image.create_image(name="a snapshot", allow_duplicates=True).id
    return created


@pytest.fixture
def stored(tmp_path: pathlib.Path) -> Iterator[DirectoryStorage]:
    numbers = hashlib.shake_256(b"seed").digest(4 * MIB) * 10
    (tmp_path / "image").write_bytes(numbers)
    yield DirectoryStorage(tmp_path, str(tmp_path))


def right(stored: DirectoryStorage, meter: Meter | None = None) -> VerifiedImage:
    content = stored.local_path("image").read_bytes()
    sha512 = hashlib.sha512(content).hexdigest()
    return VerifiedImage(stored, "image", len(content), sha512, meter=meter)


def test_a_right_image_becomes_active(
    glance: Glance, cloud: Connection, image_id: str, stored: DirectoryStorage
) -> None:
    target = parse_image_ref(image_id, cloud)
    target.check()
    target.store(right(stored), FACTS)
    found = cloud.image.get_image(image_id)
    assert (found.status, found.disk_format, found.min_disk) == ("active", "raw", 1)
    assert found.hash_value == right(stored).sha512


@pytest.mark.parametrize(
    "damage", ["a byte is flipped", "the end is missing", "something is added"]
)
def test_an_image_that_changed_in_the_storage_never_becomes_active(
    glance: Glance, cloud: Connection, image_id: str, stored: DirectoryStorage, damage: str
) -> None:
    expected = right(stored)
    path = stored.local_path("image")
    content = bytearray(path.read_bytes())
    match damage:
        case "a byte is flipped":
            content[-1] ^= 1
        case "the end is missing":
            del content[-1000:]
        case _:
            content += b"\\0"
    path.write_bytes(content)

    with pytest.raises(errors.StorageMismatch, match="expected"):
        GlanceImage(image_id, cloud).store(expected, FACTS)

    assert cloud.image.get_image(image_id).status == "queued"
    assert not (glance.images / image_id).exists()

    # and the same image takes the right data afterwards
    GlanceImage(image_id, cloud).store(right(stored), FACTS)
    assert cloud.image.get_image(image_id).status == "active"


def test_glance_is_told_the_size_before_it_gets_the_data(
    gate: UploadGate, cloud_behind: Connection, image_id: str, stored: DirectoryStorage
) -> None:
    image = right(stored)
    GlanceImage(image_id, cloud_behind).store(image, FACTS)
    (upload,) = gate.uploads
    assert upload.image == image_id
    assert upload.headers["x-openstack-image-size"] == str(image.size) == str(40 * MIB)


def test_glance_refuses_data_of_another_size_than_it_was_told(
    cloud: Connection, image_id: str
) -> None:
    cloud.image.update_image(image_id, disk_format="raw", container_format="bare")
    answer = cloud.image.put(
        "/images/%s/file" % image_id, data=b"12345",
        headers={"Content-Type": "application/octet-stream", "x-openstack-image-size": "6"},
    )  # fmt: skip
    assert answer.status_code == 400
    assert cloud.image.get_image(image_id).status == "queued"


def test_an_image_that_was_damaged_on_its_way_to_glance_is_deleted(
    glance: Glance, gate: UploadGate, cloud: Connection, cloud_behind: Connection,
    image_id: str, stored: DirectoryStorage,
) -> None:  # fmt: skip
    gate.flipping = True
    with pytest.raises(errors.StorageMismatch, match="now deleted") as caught:
        GlanceImage(image_id, cloud_behind).store(right(stored), FACTS)
    assert len(gate.uploads) == 1
    # Glance's own digest told: it had made it active.
    told = re.search(r"holds (\w+), (\d+) bytes, sha512 (\w+), expected", str(caught.value))
    assert told is not None
    assert told.groups()[:2] == ("active", str(right(stored).size))
    assert told[3] != right(stored).sha512
    assert cloud.image.find_image(image_id) is None
    assert not (glance.images / image_id).exists()


def test_an_image_that_is_not_queued_is_refused(
    cloud: Connection, image_id: str, stored: DirectoryStorage
) -> None:
    target = GlanceImage(image_id, cloud)
    target.store(right(stored), FACTS)
    with pytest.raises(errors.ImageNotQueued, match="is active, expected queued"):
        target.check()
    with pytest.raises(errors.ImageNotQueued):
        target.store(right(stored), FACTS)
    assert cloud.image.get_image(image_id).status == "active"


def test_an_image_that_does_not_exist_is_refused(cloud: Connection) -> None:
    target = GlanceImage("5b3e0d05-7e3d-4f0e-9c39-f7a1a2b7c8d9", cloud)
    with pytest.raises(errors.ImageNotQueued, match="there is no image 5b3e0d05"):
        target.check()


def test_data_that_glance_takes_for_another_format_is_told(
    cloud: Connection, image_id: str, stored: DirectoryStorage
) -> None:
    with pytest.raises(errors.UploadFailed, match=r"415.*another format"):
        GlanceImage(image_id, cloud).store(right(stored), ImageFacts("qcow2", 40 * MIB))
    assert cloud.image.get_image(image_id).status == "queued"


def test_a_glance_that_is_not_there_is_told(tmp_path: pathlib.Path) -> None:
    server = Glance(tmp_path / "glance")
    with server:
        cloud = server.connection()
        image_id = cloud.image.create_image(name="later", allow_duplicates=True).id
    with pytest.raises(errors.UploadFailed, match="does not tell of image"):
        GlanceImage(image_id, cloud).check()


def test_a_glance_that_dies_meanwhile_is_told(
    tmp_path: pathlib.Path, stored: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conductor_client.images._SETTLE_S", 2)
    server = Glance(tmp_path / "glance")
    with server:
        cloud = server.connection()
        image_id = cloud.image.create_image(name="dies", allow_duplicates=True).id

        def kill(_progress: Progress) -> None:
            server.kill()

        meter = Meter(kill)
        meter._last_told -= 60  # so that it tells of the first block already
        with pytest.raises(errors.UploadFailed, match="broke off"):
            GlanceImage(image_id, cloud).store(right(stored, meter), FACTS)
