# SPDX-License-Identifier: Apache-2.0
"""A node's snapshot goes only into a queued image of the node's projects that others do not see."""

from types import SimpleNamespace
from typing import Any

import openstack.exceptions
import pytest

from conductor_client import errors
from conductor_client.ironic.image_access import Image, NotYet, projects_of

ID = "8e0d5c5e-6b1f-4c39-9f3f-0f5a9d1c7b11"


class Glance:
    """Tells of one image, or raises."""

    def __init__(self, error: Exception | None = None, **image: Any) -> None:
        self._error = error
        self._image = {
            "status": "queued", "owner": "project", "visibility": "private", "hash_algo": None,
            "hash_value": None, **image,
        }  # fmt: skip

    @property
    def image(self) -> "Glance":
        return self

    def get_image(self, image_id: str) -> SimpleNamespace:
        assert image_id == ID
        if self._error is not None:
            raise self._error
        return SimpleNamespace(**self._image)


def read(**image: Any) -> Image:
    return Image.read(Glance(**image), ID)


@pytest.mark.parametrize("visibility", ["private", "shared"])
def test_a_queued_image_of_the_project_is_taken(visibility: str) -> None:
    image = read(visibility=visibility)
    image.check_access({"project"})
    image.check_queued()
    assert image.takes("digest")


@pytest.mark.parametrize("visibility", ["public", "community"])
def test_an_image_that_every_project_sees_is_refused(visibility: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="every project would see the disk"):
        read(visibility=visibility).check_access({"project"})


@pytest.mark.parametrize(
    ("owner", "projects"), [("other", {"project"}), (None, {"project"}), ("project", set())]
)
def test_an_image_of_another_project_is_refused(owner: str | None, projects: set[str]) -> None:
    with pytest.raises(errors.InvalidRequest, match="belongs to the project %s" % owner):
        read(owner=owner).check_access(projects)


@pytest.mark.parametrize("status", ["active", "deleted", "killed", "deactivated"])
def test_an_image_that_is_not_queued_is_refused(status: str) -> None:
    image = read(status=status, hash_algo="sha512", hash_value="another")
    for check in (image.check_queued, lambda: image.takes("digest")):
        with pytest.raises(errors.ImageNotQueued, match="is %s, expected queued" % status):
            check()


def test_an_image_that_has_the_very_data_already_is_right() -> None:
    assert not read(status="active", hash_algo="sha512", hash_value="digest").takes("digest")


def test_a_digest_of_another_kind_says_nothing() -> None:
    with pytest.raises(errors.ImageNotQueued):
        read(status="active", hash_algo="md5", hash_value="digest").takes("digest")


@pytest.mark.parametrize("status", ["saving", "importing"])
def test_data_that_is_on_its_way_is_waited_for(status: str) -> None:
    with pytest.raises(NotYet, match=status):
        read(status=status).takes("digest")


@pytest.mark.parametrize("image_ref", ["file:///etc/passwd", "name", "", None, 5])
def test_what_is_no_uuid_is_refused(image_ref: object) -> None:
    with pytest.raises(errors.InvalidRequest, match="is not an image's UUID"):
        Image.read(Glance(), image_ref)


def test_an_image_that_does_not_exist_is_told() -> None:
    missing = Glance(openstack.exceptions.NotFoundException("no"))
    with pytest.raises(errors.ImageNotQueued, match="there is no image %s" % ID):
        Image.read(missing, ID)


def test_a_glance_that_is_away_is_told() -> None:
    away = Glance(openstack.exceptions.SDKException("away"))
    with pytest.raises(errors.UploadFailed, match="does not tell of image %s: away" % ID):
        Image.read(away, ID)


def test_the_projects_of_a_node_are_those_that_are_named() -> None:
    assert projects_of("owner", None, "instance") == {"owner", "instance"}
    assert projects_of(None, "lessee", None) == {"lessee"}
    assert projects_of("", None, {"not": "a project"}) == set()


def test_a_lessee_cannot_name_another_project_by_the_instance() -> None:
    assert projects_of("owner", "lessee", "another") == {"owner", "lessee"}
