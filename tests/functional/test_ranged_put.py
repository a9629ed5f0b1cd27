# SPDX-License-Identifier: Apache-2.0
"""An upload in parts outlives its server, which is killed, cut off and damaged meanwhile."""

import contextlib
import hashlib
import os
import pathlib
import random
import re
from collections.abc import Iterator

import pytest

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from snapshot_core.storage import open_storage, patience
from snapshot_core.storage.base import Storage
from tests.functional.conftest import PASSWORD, USERNAME
from tests.lab.apache import Apache
from tests.lab.cutting_proxy import CuttingProxy
from tests.lab.nginx import Nginx
from tests.lab.wsgidav_server import WsgiDav

MIB = 1024 * 1024
BLOCK = MIB
BLOCKS = 70  # four parts and a piece
SIZE = BLOCKS * BLOCK


def refused(method: str) -> str:
    """Return Apache's lines that refuse a method; its <Limit> cannot tell GET from HEAD."""
    return "RewriteEngine on\nRewriteCond %%{REQUEST_METHOD} ^%s$\nRewriteRule .* - [F]" % method


def block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


DIGEST = hashlib.sha512(b"".join(map(block, range(BLOCKS)))).hexdigest()


def blocks(at: int = -1, happens: object = None) -> Iterator[bytes]:
    """Yield the image's blocks; before the one with the number ``at`` something ``happens``."""
    for number in range(BLOCKS):
        if number == at and callable(happens):
            happens()
        yield block(number)


@contextlib.contextmanager
def opened(server: Apache | Nginx | WsgiDav, port: int | None = None) -> Iterator[Storage]:
    cacert = getattr(server, "cacert", None)
    trust = Trust(str(cacert) if cacert else None)
    url = server.url.replace(str(server.port), str(port or server.port))
    with open_storage(Location.parse(url), Credentials(USERNAME, PASSWORD), trust) as storage:
        yield storage


def digest(path: pathlib.Path) -> str:
    return hashlib.sha512(path.read_bytes()).hexdigest()


def names(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != ".DAV")


def puts(log: pathlib.Path) -> list[str]:
    """Return the statuses of the PUTs to the part, as the server logged them."""
    return re.findall(r"PUT /snapshots/image\.part HTTP/1\.1\"? (\d+)", log.read_text())


@pytest.fixture
def apache(tmp_path: pathlib.Path) -> Iterator[Apache]:
    with Apache(tmp_path / "store", USERNAME, PASSWORD) as server:
        yield server


KNOWN = pytest.mark.parametrize("length", [None, SIZE], ids=["unknown", "known"])


@KNOWN
def test_apache_gets_parts_over_one_connection(apache: Apache, length: int | None) -> None:
    with (
        CuttingProxy(apache.port) as proxy,
        opened(apache, proxy.port) as storage,
    ):
        storage.claim("image")
        before = proxy.connections
        storage.write("image.part", blocks(), length)
        # one was used to look whether ranges are taken: reading what came is its end
        assert proxy.connections - before <= 2
        storage.publish("image", SIZE)
    assert digest(apache.document_root / "image") == DIGEST
    assert puts(apache.access_log) == ["204"] * 6  # what shows that it takes ranges, and five parts


@KNOWN
@pytest.mark.parametrize("server", [Nginx, WsgiDav])
def test_servers_without_ranges_get_one_request(
    tmp_path: pathlib.Path, server: type[Nginx | WsgiDav], length: int | None
) -> None:
    (tmp_path / "store").mkdir()
    with server(tmp_path / "store", USERNAME, PASSWORD) as running, opened(running) as storage:
        storage.claim("image")
        storage.write("image.part", blocks(), length)
        storage.publish("image", SIZE)
    assert digest(tmp_path / "store/image") == DIGEST


def outage(server: Apache, monkeypatch: pytest.MonkeyPatch, *meanwhile: object) -> None:
    """Let the outage of a killed ``server`` end when it was tried three times."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            for action in meanwhile:
                assert callable(action)
                action()
            server.start_again()

    monkeypatch.setattr(patience, "sleep", sleep)


KILLED = pytest.mark.parametrize("at", [20, 37])


@KNOWN
@KILLED
def test_a_server_that_is_killed_and_comes_back_gets_the_image_whole(
    apache: Apache, length: int | None, at: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    outage(apache, monkeypatch)
    with opened(apache) as storage:
        storage.claim("image")
        storage.write("image.part", blocks(at, apache.kill), length)
        storage.publish("image", SIZE)
    assert digest(apache.document_root / "image") == DIGEST
    assert len(re.findall("cannot be reached: .*; trying again in", caplog.text)) == 3


@KNOWN
@pytest.mark.parametrize("left", [0, 24 * MIB, None], ids=["empty", "shorter", "none"])
def test_a_server_that_comes_back_with_less_gets_no_hole(
    apache: Apache, length: int | None, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose() -> None:
        part = apache.document_root / "image.part"
        if left is None:
            part.unlink()
        else:
            os.truncate(part, left)

    outage(apache, monkeypatch, lose)
    with opened(apache) as storage:
        storage.claim("image")
        found = "nothing" if left is None else "%d bytes" % left
        with pytest.raises(
            errors.StorageMismatch,
            match="image.part holds %s, expected 33554432 bytes so far" % found,
        ):
            storage.write("image.part", blocks(37, apache.kill), length)
        storage.abandon("image")
    assert names(apache.document_root) == []


@KNOWN
def test_a_server_that_stays_away_fails_the_upload(
    apache: Apache, length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "OUTAGE_S", 1)
    with opened(apache) as storage:
        storage.claim("image")
        with pytest.raises(errors.WriteFailed, match=r"broke off: .*cannot be reached"):
            storage.write("image.part", blocks(37, apache.kill), length)


@KNOWN
def test_connections_that_are_cut_cost_a_part_each(
    apache: Apache, length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "sleep", lambda _seconds: None)
    # within the first part, twice within the second or third, and between others
    with (
        CuttingProxy(apache.port, 10 * MIB, 18 * MIB, 6 * MIB, 16 * MIB) as proxy,
        opened(apache, proxy.port) as storage,
    ):
        storage.claim("image")
        storage.write("image.part", blocks(), length)
        storage.publish("image", SIZE)
        assert proxy.cuts_left == 0
    assert digest(apache.document_root / "image") == DIGEST


def test_a_part_that_the_server_refuses_is_not_sent_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(patience, "sleep", pauses.append)
    limit = "LimitRequestBody %d" % MIB
    with (
        Apache(tmp_path / "store", USERNAME, PASSWORD, extra_config=limit) as server,
        opened(server) as storage,
    ):
        storage.claim("image")
        with pytest.raises(errors.WriteFailed, match="answered 413 to PUT: the server limits"):
            storage.write("image.part", blocks(), None)
        storage.abandon("image")
        assert names(server.document_root) == []
    assert pauses == []


@KNOWN
def test_an_account_that_may_not_read_gets_one_request_and_its_size_is_confirmed(
    tmp_path: pathlib.Path, length: int | None
) -> None:
    with (
        Apache(tmp_path / "store", USERNAME, PASSWORD, extra_config=refused("GET")) as server,
        opened(server) as storage,
    ):
        storage.claim("image")
        storage.write("image.part", blocks(), length)
        storage.publish("image", SIZE)
        assert puts(server.access_log) == ["204", "204"]
    assert digest(tmp_path / "store/image") == DIGEST


def test_an_account_that_may_not_even_ask_for_sizes_is_refused_at_once(
    tmp_path: pathlib.Path,
) -> None:
    with (
        Apache(tmp_path / "store", USERNAME, PASSWORD, extra_config=refused("(GET|HEAD)")) as it,
        opened(it) as storage,
        pytest.raises(errors.StorageUnavailable, match="answered 403 to HEAD: the account may"),
    ):
        storage.claim("image")
    assert names(tmp_path / "store") == []


def test_a_server_under_maintenance_is_waited_for_as_long_as_it_says(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notice = tmp_path / "maintenance"
    notice.touch()
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            notice.unlink()

    monkeypatch.setattr(patience, "sleep", sleep)
    config = "RewriteEngine on\nRewriteCond %s -f\nRewriteRule .* - [R=503]\n" % notice
    config += 'Header always set Retry-After 7 "expr=%{REQUEST_STATUS} == 503"'
    with (
        Apache(tmp_path / "store", USERNAME, PASSWORD, extra_config=config) as server,
        opened(server) as storage,
    ):
        storage.claim("image")
    assert pauses == [7, 7]
    assert "answered 503 to PROPFIND" in caplog.text
    assert "trying again in 7.0 s" in caplog.text


@pytest.fixture
def without_move(tmp_path: pathlib.Path) -> Iterator[Nginx]:
    """An nginx that takes PUT and DELETE, and nothing else of WebDAV."""
    with Nginx(tmp_path / "store", USERNAME, PASSWORD, methods="PUT DELETE") as server:
        yield server


def test_a_server_without_move_gets_the_image_under_its_final_name(
    without_move: Nginx, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(without_move) as storage:
        storage.claim("image")
        assert names(without_move.directory) == ["image.part"]
        storage.write(storage.part("image"), blocks(), None)
        assert names(without_move.directory) == ["image", "image.part"]
        storage.publish("image", SIZE)
        storage.write_manifest("image", b"{}")
    assert names(without_move.directory) == ["image", "image.json"]
    assert digest(without_move.directory / "image") == DIGEST
    assert "one is whole only when the object with '.part' beside it is gone" in caplog.text


def test_a_server_without_move_keeps_what_it_has(without_move: Nginx) -> None:
    for taken in ("image", "image.part", "image.json"):
        (without_move.directory / taken).write_text("precious")
        with opened(without_move) as storage, pytest.raises(errors.InvalidRequest, match="exists"):
            storage.claim("image")
        assert names(without_move.directory) == [taken]
        assert (without_move.directory / taken).read_text() == "precious"
        (without_move.directory / taken).unlink()


def test_a_server_without_move_is_left_empty_after_a_failure(without_move: Nginx) -> None:
    with opened(without_move) as storage:
        storage.claim("image")
        storage.write(storage.part("image"), blocks(), SIZE)
        with pytest.raises(errors.StorageMismatch):
            storage.publish("image", SIZE + 1)
        storage.abandon("image")
    assert names(without_move.directory) == []
