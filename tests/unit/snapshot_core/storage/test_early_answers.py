# SPDX-License-Identifier: Apache-2.0
"""A server that says that all is well before it has all of a body is not believed."""

import hashlib
import http.server
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable

import pytest

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from snapshot_core.storage import open_storage, patience
from snapshot_core.storage.base import Storage
from snapshot_core.storage.exchange import Body, exchange, open_session
from snapshot_core.storage.parts import PART, Part
from snapshot_core.storage.patience import Away

MIB = 1024 * 1024
# More than both sockets hold.
SIZE = 24 * MIB
LITTLE = 64 * 1024
IMAGE = [random.Random(number).randbytes(MIB) for number in range(3 * PART // MIB)]
DIGEST = hashlib.sha512(b"".join(IMAGE)).hexdigest()
CHALLENGE = 'Digest realm="x", nonce="y", qop="auth"'


class EarlyServer:
    """Keeps objects, writes ranges into them, and answers ``status`` early to certain bodies.

    ``early`` gets a request's length and the start of its range, and says how many bytes of its
    body are enough (None: all). Nothing more of it is read, and the connection is closed.
    """

    def __init__(
        self, early: Callable[[int, int], int | None], status: int = 204, challenge: str = ""
    ) -> None:
        self.early = early
        self.status = status
        self.challenge = challenge
        self.objects: dict[str, bytearray] = {}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        # Connections get it from the listener: so little more than was taken is on its way.
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * LITTLE)
        self.url = "http://127.0.0.1:%d/dir" % self._server.server_address[1]

    def __enter__(self) -> "EarlyServer":
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(owner: EarlyServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            if self._must_ask():
                return
            length = int(self.headers.get("Content-Length", SIZE))
            where = re.match(r"bytes (\d+)-", self.headers.get("Content-Range", ""))
            start = int(where[1]) if where else 0
            enough = owner.early(length, start)
            if enough is None and "Content-Length" not in self.headers:
                body = self._read_chunks()
            else:
                body = self.rfile.read(length if enough is None else enough)
            kept = owner.objects.setdefault(self.path, bytearray())
            if not where:
                kept.clear()
            kept.extend(bytes(max(0, start - len(kept))))
            kept[start : start + len(body)] = body
            self._answer(204 if enough is None else owner.status)
            if enough is not None:
                self.connection.shutdown(socket.SHUT_WR)
                time.sleep(0.3)
                self.close_connection = True

        def _read_chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def do_GET(self) -> None:
            kept = owner.objects.get(self.path)
            self._answer(404 if kept is None else 200, bytes(kept or b""))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PROPFIND(self) -> None:
            if not self._must_ask():
                self._answer(207)

        def do_DELETE(self) -> None:
            owner.objects.pop(self.path, None)
            self._answer(204)

        def do_MOVE(self) -> None:
            target = "/" + self.headers["Destination"].split("/", 3)[3]
            owner.objects[target] = owner.objects.pop(self.path)
            self._answer(201)

        def _must_ask(self) -> bool:
            if not owner.challenge or "Authorization" in self.headers:
                return False
            self.close_connection = True
            self._answer(401)
            return True

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", owner.challenge)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


BODIES: dict[str, Callable[[], object]] = {
    "bytes": lambda: bytes(SIZE),
    "a length": lambda: Body(iter([bytes(MIB)] * (SIZE // MIB)), SIZE),
    "one block": lambda: Body(iter([bytes(SIZE)]), SIZE),
    "chunks": lambda: iter([bytes(MIB)] * (SIZE // MIB)),
    "one chunk": lambda: iter([bytes(SIZE)]),
    "a part": lambda: Part(0, SIZE, [bytes(MIB)] * (SIZE // MIB)),
}


@pytest.mark.parametrize("account", [None, Credentials("anna", "s3cret", scheme="digest")])
@pytest.mark.parametrize("body", BODIES)
def test_a_success_for_a_body_that_was_not_sent_to_its_end_is_none(
    body: str, account: Credentials | None
) -> None:
    with (
        EarlyServer(lambda _length, _start: LITTLE, 204, CHALLENGE if account else "") as server,
        open_session(account, Trust()) as session,
    ):
        data = BODIES[body]()
        with (
            pytest.raises(Away, match="/dir/x answered 204 before it had all that it was sent"),
            exchange(session, "PUT", server.url + "/x", (5, 30), data=data),
        ):
            pass


@pytest.mark.parametrize("body", BODIES)
def test_a_refusal_that_comes_early_is_told(body: str) -> None:
    with (
        EarlyServer(lambda _length, _start: LITTLE, 413) as server,
        open_session(None, Trust()) as session,
        exchange(session, "PUT", server.url + "/x", (5, 30), data=BODIES[body]()) as answer,
    ):
        assert answer.status_code == 413


class Once:
    """Takes ``enough`` of the first body that begins behind the first part."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.times = 1

    def __call__(self, _length: int, start: int) -> int | None:
        if start < PART or not self.times:
            return None
        self.times -= 1
        return self.enough


def _claimed(storage: Storage) -> Storage:
    storage.claim("image")
    return storage


LENGTHS = pytest.mark.parametrize("length", [None, 3 * PART], ids=["unknown", "known"])


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "sleep", lambda _seconds: None)


@LENGTHS
def test_a_part_that_is_confirmed_while_it_is_sent_is_sent_again(
    length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    once = Once(LITTLE)
    with EarlyServer(once) as server, open_storage(Location.parse(server.url)) as storage:
        _claimed(storage).write("image.part", iter(IMAGE), length)
        storage.publish("image", 3 * PART)
        assert hashlib.sha512(server.objects["/dir/image"]).hexdigest() == DIGEST
    assert once.times == 0
    assert "answered 204 before it had all that it was sent; trying again" in caplog.text


@LENGTHS
def test_no_part_is_written_behind_one_whose_end_was_lost_in_the_buffers(
    length: int | None,
) -> None:
    with (
        EarlyServer(Once(PART - LITTLE)) as server,
        open_storage(Location.parse(server.url)) as storage,
        pytest.raises(errors.StorageMismatch, match="expected %d bytes so far" % (2 * PART)),
    ):
        _claimed(storage).write("image.part", iter(IMAGE), length)


def _small(storage: Storage) -> None:
    storage.write_small("image.json", bytes(SIZE))


def _stream(storage: Storage) -> None:
    storage.write("other", _blocks(), None)


def _known(storage: Storage) -> None:
    storage.write("other", _blocks(), SIZE)


def _blocks() -> Iterable[bytes]:
    return iter([bytes(MIB)] * (SIZE // MIB))


@pytest.mark.parametrize("write", [_small, _stream, _known])
def test_what_is_one_request_failed_if_it_was_confirmed_early(
    write: Callable[[Storage], None],
) -> None:
    with (
        EarlyServer(lambda length, _start: LITTLE if length > PART else None) as server,
        open_storage(Location.parse(server.url)) as storage,
        pytest.raises(errors.WriteFailed, match=r"broke off: .* answered 204 before it had all"),
    ):
        write(storage)


def test_a_manifest_that_was_confirmed_early_is_written_again_where_hours_may_be_lost() -> None:
    times = [LITTLE, None]
    with (
        EarlyServer(lambda _length, _start: times.pop(0)) as server,
        open_storage(Location.parse(server.url)) as storage,
    ):
        with storage.patiently():
            _small(storage)
        assert server.objects["/dir/image.json"] == bytes(SIZE)
    assert times == []
