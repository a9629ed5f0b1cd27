# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot reap`` on real servers: what nobody fetched goes, once it is old."""

import json
import os
import pathlib
import time

from conductor_client.access import StorageAccess
from conductor_client.collection import remove_if_empty
from tests.functional import commands
from tests.functional.conftest import Dav

NODE = "6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59"


def put(dav: Dav, name: str, text: str, days: float) -> None:
    path = dav.directory / NODE / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    age(path, days)
    # Apache removes as its own user.
    owner = dav.directory.stat()
    for one in (path, path.parent):
        os.chown(one, owner.st_uid, owner.st_gid)


def age(path: pathlib.Path, days: float) -> None:
    when = time.time() - days * 24 * 3600
    os.utime(path, (when, when))


def reap(dav: Dav, auth_file: pathlib.Path, *more: str) -> list[str]:
    trust = ["--cacert", str(dav.cacert)] if dav.cacert else []
    outcome = commands.run(
        "ironic-snapshot", "reap", "--storage-url", dav.url, "--auth-file", auth_file, *trust,
        "--json", *more,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    removed: list[str] = outcome.json["removed"]
    return removed


def test_old_and_expired_images_go_and_so_does_the_collection_when_it_is_empty_and_old(
    dav: Dav, auth_file: pathlib.Path
) -> None:
    manifest = json.dumps({"image_name": "x", "checksum": {}})
    put(dav, "old image", "image", days=10)
    put(dav, "old image.json", manifest, days=10)
    put(dav, "half.part", "half", days=8)
    put(dav, "half.json", '{"progress": {"phase": "stream"}}', days=8)
    put(dav, "expired", "image", days=2)
    put(
        dav, "expired.json", json.dumps({"image_name": "x", "checksum": {}, "keep_s": 3600}), days=2
    )
    put(dav, "0" * 32 + ".qcow2.part", "its power was cut at once", days=8)
    put(dav, "young.json", manifest, days=2)
    due = [NODE + "/" + name for name in ("0" * 32 + ".qcow2", "expired", "half", "old image")]
    assert reap(dav, auth_file, "--older-than", "7d", "--dry-run") == due
    assert reap(dav, auth_file, "--older-than", "7d") == due
    assert [path.name for path in (dav.directory / NODE).iterdir()] == ["young.json"]
    assert reap(dav, auth_file, "--older-than", "36h") == [NODE + "/young"]
    assert dav.names() == [NODE]
    age(dav.directory / NODE, days=2)
    assert reap(dav, auth_file, "--older-than", "36h") == []
    assert dav.names() == []


def test_a_server_that_cannot_list_says_so(wsgidav: Dav, tmp_path: pathlib.Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.touch(mode=0o600)
    wrong.write_text("{username: nobody, password: wrong}")
    outcome = commands.run(
        "ironic-snapshot", "reap", "--storage-url", wsgidav.url, "--auth-file", wrong,
        "--older-than", "7d",
    )  # fmt: skip
    assert outcome.code == 1
    assert "StorageUnavailable: " in outcome.error


def test_a_collection_goes_with_the_rest_of_a_claim_and_stays_with_anything_else(
    dav: Dav, auth_file: pathlib.Path
) -> None:
    access = StorageAccess.of(dav.url, str(auth_file), str(dav.cacert) if dav.cacert else None)
    put(dav, "ipa-snapshot-" + "0" * 32, "", days=0)
    put(dav, "image", "image", days=0)
    with access.opened() as storage:
        remove_if_empty(access, storage, NODE)
        assert len(list((dav.directory / NODE).iterdir())) == 2
        storage.remove(NODE + "/image")
        remove_if_empty(access, storage, NODE)
    assert dav.names() == []
