# SPDX-License-Identifier: Apache-2.0
"""A collection for one node is made where it is missing; and an empty object exists."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from snapshot_core import errors
from snapshot_core.location import Location
from snapshot_core.storage import open_storage
from snapshot_core.storage.directory import DirectoryStorage
from tests.unit.http_server import Answer, AnsweringServer, Respond

Serve = Callable[[Respond], AnsweringServer]


def test_a_directory_is_made_for_its_owner_alone_and_kept_if_it_is_there(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path, "label")
    storage.make_collection("node")
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700
    (tmp_path / "node" / "image").touch()
    storage.make_collection("node")
    assert (tmp_path / "node" / "image").exists()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageUnavailable, match="label/file cannot be made: File exists"):
        DirectoryStorage(tmp_path, "label").make_collection("file")
    with pytest.raises(errors.StorageUnavailable, match="No such file"):
        DirectoryStorage(tmp_path / "none", "label").make_collection("node")


@pytest.mark.parametrize("status", [201, 405])
def test_a_collection_is_made_or_there(serve: Serve, status: int) -> None:
    server = serve(lambda request: Answer(status))
    with open_storage(Location.parse(server.url + "/dir")) as storage:
        storage.make_collection("node")
    (request,) = server.requests
    assert (request.method, request.path) == ("MKCOL", "/dir/node/")


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "may not do this"), (409, "parent"), (301, "redirects"), (207, "")]
)
def test_a_collection_that_is_refused_is_told(serve: Serve, status: int, advice: str) -> None:
    server = serve(lambda request: Answer(status))
    with (
        open_storage(Location.parse(server.url + "/dir")) as storage,
        pytest.raises(
            errors.StorageUnavailable, match="answered %d to MKCOL.*%s" % (status, advice)
        ),
    ):
        storage.make_collection("node")


def test_an_object_without_a_length_exists_for_an_account_that_may_not_read(serve: Serve) -> None:
    server = serve(lambda request: Answer(200 if request.method == "HEAD" else 403, length=None))
    with open_storage(Location.parse(server.url + "/dir")) as storage:
        assert storage.exists("empty")
    assert [request.method for request in server.requests] == ["HEAD"]


def test_what_a_server_refuses_to_tell_is_not_taken_for_missing(serve: Serve) -> None:
    server = serve(lambda request: Answer(404 if request.path.endswith("none") else 403))
    with open_storage(Location.parse(server.url + "/dir")) as storage:
        assert not storage.exists("none")
        with pytest.raises(errors.StorageUnavailable, match="answered 403 to HEAD"):
            storage.exists("image")
