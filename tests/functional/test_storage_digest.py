# SPDX-License-Identifier: Apache-2.0
"""Digest authentication to real servers: Apache's, WsgiDAV's, and davfs2's on the other side."""

import hashlib
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

import conductor_client
from snapshot_core.credentials import Credentials, Trust
from tests.functional import commands
from tests.functional.conftest import PASSWORD, SERIAL, USERNAME, Dav, identical
from tests.lab import disks
from tests.lab.agent import Agent, FakeDisk
from tests.lab.apache import Apache
from tests.lab.wsgidav_server import WsgiDav

# What came with each request instead of a password.
LOG = 'CustomLog authorization.log "%m %{Authorization}i %>s"'


@pytest.fixture
def digest_auth_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "digest.yaml"
    path.touch(mode=0o600)
    path.write_text("username: %s\npassword: '%s'\nscheme: digest\n" % (USERNAME, PASSWORD))
    return path


@pytest.fixture
def apache(tmp_path: pathlib.Path) -> Iterator[Apache]:
    """An Apache whose nonces are good for a second."""
    with Apache(
        tmp_path / "apache", USERNAME, PASSWORD, digest=True, server_config=LOG,
        extra_config="AuthDigestNonceLifetime 1",
    ) as server:  # fmt: skip
        yield server


def stream(
    url: str, auth_file: pathlib.Path, loop: str, cacert: pathlib.Path | None, *more: object
) -> commands.Outcome:
    trust = ["--cacert", cacert] if cacert else []
    return commands.run(
        "ipa-snapshot", "stream", url, "image", "--device", loop, "--auth-file", auth_file,
        "--json", "--debug", *trust, *more,
    )  # fmt: skip


@pytest.mark.parametrize("writer", ["stream", "dd", "davfs"])
def test_an_apache_that_asks_for_digest_holds_the_disk(
    apache: Apache, digest_auth_file: pathlib.Path, small_disk: disks.Disk, small_loop: str,
    writer: str,
) -> None:  # fmt: skip
    outcome = stream(apache.url, digest_auth_file, small_loop, apache.cacert, "--writer", writer)
    assert outcome.code == 0, outcome.err
    image = apache.document_root / "image"
    assert Dav(apache.url, apache.document_root, None).names() == ["image", "image.json"]
    assert outcome.json["checksum"]["value"] == sha512(image)
    if writer == "stream":
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)
    else:
        assert identical(small_disk.path, image, outcome.json["disk_format"])
    log = (apache.state / "authorization.log").read_text()
    assert "PUT Digest" in log
    assert "Basic" not in log
    if writer == "dd":  # of whose parts some came too late, and were sent again
        assert re.search("PUT Digest .* 401", log)
    for said in (log, outcome.err):
        assert 'pass "word' not in said and 'pass \\"word' not in said


@pytest.mark.parametrize("writer", ["stream", "dd"])
def test_a_wsgidav_that_asks_for_digest_holds_the_disk(
    tmp_path: pathlib.Path, digest_auth_file: pathlib.Path, small_disk: disks.Disk,
    small_loop: str, writer: str,
) -> None:  # fmt: skip
    store = tmp_path / "wsgidav"
    store.mkdir()
    with WsgiDav(store, USERNAME, PASSWORD, digest=True) as server:
        outcome = stream(server.url, digest_auth_file, small_loop, None, "--writer", writer)
    assert outcome.code == 0, outcome.err
    assert outcome.json["checksum"]["value"] == sha512(store / "image")
    assert sorted(path.name for path in store.iterdir()) == ["image", "image.json"]


def test_davfs2_does_not_get_a_digest_account_where_anyone_may_ask_for_the_password(
    tmp_path: pathlib.Path, digest_auth_file: pathlib.Path, small_loop: str
) -> None:
    store = tmp_path / "wsgidav"
    store.mkdir()
    with WsgiDav(store, USERNAME, PASSWORD, digest=True) as server:
        outcome = stream(server.url, digest_auth_file, small_loop, None, "--writer", "davfs")
    assert outcome.code == 1
    assert "InvalidRequest: davfs2 would send the password as Basic" in outcome.error
    assert list(store.iterdir()) == []


def test_a_server_that_wants_basic_is_refused(
    tmp_path: pathlib.Path, digest_auth_file: pathlib.Path, small_loop: str
) -> None:
    with Apache(tmp_path / "store", USERNAME, PASSWORD, server_config=LOG) as server:
        outcome = stream(server.url, digest_auth_file, small_loop, server.cacert)
        log = (server.state / "authorization.log").read_text()
    assert outcome.code == 1
    assert "does not ask for Digest authentication that can be answered" in outcome.error
    assert "Basic" not in log


def test_the_agent_and_the_conductors_side_use_digest_too(
    apache: Apache, fake_disk: FakeDisk, disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "image.qcow2"
    with Agent([fake_disk]) as agent:
        snapshot = conductor_client.take_snapshot(
            agent_url=agent.url, agent_token=agent.token, storage_url=apache.url,
            image_ref="file://%s" % target, trust=Trust(str(apache.cacert)),
            credentials=Credentials(USERNAME, PASSWORD, scheme="digest"),
        )  # fmt: skip
    assert snapshot.captured.raw["device"]["serial"] == SERIAL
    assert snapshot.sha512 == sha512(target)
    log = (apache.state / "authorization.log").read_text()
    assert "GET Digest" in log
    assert "Basic" not in log
    assert Dav(apache.url, apache.document_root, None).names() == []


def sha512(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()
