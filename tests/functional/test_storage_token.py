# SPDX-License-Identifier: Apache-2.0
"""A machine's token reaches the objects of its own snapshot at a real Apache, and nothing else."""

import itertools
import pathlib
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests

from conductor_client.ironic import token
from tests.functional import commands
from tests.functional.conftest import same_files
from tests.lab import disks
from tests.lab.apache import Apache

KEY = "0123456789abcdef" * 2
NODE, OTHER_NODE = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
IMAGE, OTHER_IMAGE = "1" * 32, "2" * 32
HOUR_S = 3600
REFUSED = (401, 403)


@dataclass(frozen=True)
class Store:
    """A storage, the directory behind it, the file with the key that it knows, and its log."""

    url: str
    directory: pathlib.Path
    cacert: str
    key_file: pathlib.Path
    log: pathlib.Path

    def token(self, node: str = NODE, image: str = IMAGE, valid_s: int = HOUR_S) -> str:
        until = int(time.time()) + valid_s
        found = token.issue(str(self.key_file), "/snapshots/" + node, image, until).token
        assert found is not None
        return found

    def status(self, method: str, path: str, bearer: str, **headers: str) -> int:
        if "destination" in headers:
            headers["destination"] = self.url + headers["destination"]
        return requests.request(
            method, self.url + path, headers={"Authorization": "Bearer " + bearer, **headers},
            data=b"data" if method == "PUT" else None, verify=self.cacert, timeout=60,
        ).status_code  # fmt: skip


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    """Apache as the documentation configures it, with images of two nodes."""
    directory, key_file = tmp_path / "store", tmp_path / "key"
    key_file.touch(mode=0o600)
    key_file.write_text(KEY + "\n")
    for node, image in itertools.product((NODE, OTHER_NODE), (IMAGE, OTHER_IMAGE)):
        image_file = directory / node / (image + ".qcow2")
        image_file.parent.mkdir(parents=True, exist_ok=True)
        image_file.write_text("secret")
    with Apache(directory, "conductor", "secret", token_key=KEY) as server:
        for path in directory.rglob("*"):
            disks.run("chown", "www-data:www-data", path)
        yield Store(server.url, directory, str(server.cacert), key_file, server.access_log)


def test_a_snapshot_is_stored_with_its_token_and_in_parts(
    store: Store, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    name = "3" * 32
    auth_file = tmp_path / "auth.yaml"
    auth_file.touch(mode=0o600)
    auth_file.write_text("token: " + store.token(image=name))
    outcome = commands.run(
        "ipa-snapshot", "stream", "%s/%s" % (store.url, NODE), name + ".qcow2",
        "--device", small_disk.path, "--auth-file", auth_file, "--cacert", store.cacert, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    names = sorted(path.name for path in (store.directory / NODE).glob(name + "*"))
    assert names == [name + ".qcow2", name + ".qcow2.json"]
    # what claims the name, what shows that ranges are taken, then the parts, and the manifest
    parts = re.findall(r"PUT \S+\.qcow2\.part HTTP/1\.1 204$", store.log.read_text(), re.MULTILINE)
    assert len(parts) >= 3
    assert same_files(small_disk, store.directory / NODE / names[0], tmp_path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_token_is_for_one_snapshot_of_one_node(store: Store, method: str) -> None:
    own = "/%s/%s.qcow2" % (NODE, IMAGE)
    for bearer in (
        store.token(image=OTHER_IMAGE), store.token(node=OTHER_NODE),
        store.token(valid_s=-48 * HOUR_S),
    ):  # fmt: skip
        assert store.status(method, own, bearer) in REFUSED
    assert store.status(method, own, store.token()) in (200, 204)


def test_what_a_token_says_cannot_be_changed(store: Store) -> None:
    until, _image, proof = store.token(image=OTHER_IMAGE).split("-")
    own = "/%s/%s.qcow2" % (NODE, IMAGE)
    for changed in (
        (until, IMAGE, proof), (str(int(until) + 10**10), OTHER_IMAGE, proof),
        (until, IMAGE, "0" * 40), (until, IMAGE, ""),
    ):  # fmt: skip
        assert store.status("GET", own, "-".join(changed)) in REFUSED
    assert store.status("GET", own, "") in REFUSED


def test_a_token_neither_lists_nor_reaches_out_of_its_collection(store: Store) -> None:
    bearer, collection = store.token(), "/%s/" % NODE
    assert store.status("PROPFIND", collection, bearer, depth="0") == 207
    for depth in ("1", "infinity"):
        assert store.status("PROPFIND", collection, bearer, depth=depth) in REFUSED
        assert store.status("PROPFIND", "/", bearer, depth=depth) in REFUSED
    for method in ("GET", "DELETE", "MKCOL", "PUT"):
        assert store.status(method, collection, bearer) in REFUSED
    own = "%s%s.qcow2" % (collection, IMAGE)
    for other in ("%s%s.new" % (collection, OTHER_IMAGE), "/%s/%s.new" % (OTHER_NODE, IMAGE)):
        assert store.status("MOVE", own, bearer, destination=other) in REFUSED
        assert store.status("COPY", own, bearer, destination=other) in REFUSED
        assert store.status("PUT", other, bearer) in REFUSED
    for escape in ("%s%s/../%s.qcow2" % (collection, IMAGE, OTHER_IMAGE), own + "%2F..%2Fx"):
        assert store.status("PUT", escape, bearer) in (*REFUSED, 404)
    assert store.status("MOVE", own, bearer, destination=own + ".moved") == 201


def test_the_other_side_has_its_account_beside_the_tokens(store: Store) -> None:
    answer = requests.get(
        "%s/%s/%s.qcow2" % (store.url, NODE, IMAGE), auth=("conductor", "secret"),
        verify=store.cacert, timeout=60,
    )  # fmt: skip
    assert answer.text == "secret"
