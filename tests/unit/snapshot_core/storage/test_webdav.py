# SPDX-License-Identifier: Apache-2.0
"""A WebDAV server's every answer becomes a right result or one clear error."""

import base64
import http.server
import random
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from snapshot_core.storage import open_storage, parts, patience, webdav
from snapshot_core.storage.base import Storage
from tests.lab import certificates
from tests.unit.http_server import Answer, AnsweringServer, Request, Respond

CLAIM = b"claimed by ipa-snapshot"
Serve = Callable[[Respond], AnsweringServer]


class Collection:
    """A small WebDAV server; ``answers`` says what it answers to a method instead."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}

    def __call__(self, request: Request) -> Answer:
        if request.method in self.answers:
            return self.answers[request.method]
        name = unquote(request.path.removeprefix("/dir/"))
        return getattr(self, "_" + request.method.lower())(name, request)

    def _propfind(self, _name: str, _request: Request) -> Answer:
        return Answer(207, b"<multistatus/>")

    def _put(self, name: str, request: Request) -> Answer:
        self.objects[name] = request.body
        return Answer(201)

    def _get(self, name: str, _request: Request) -> Answer:
        return Answer(200, self.objects[name]) if name in self.objects else Answer(404)

    _head = _get

    def _delete(self, name: str, _request: Request) -> Answer:
        return Answer(204 if self.objects.pop(name, None) is not None else 404)

    def _move(self, name: str, request: Request) -> Answer:
        new_name = unquote(request.headers["Destination"].rpartition("/")[2])
        if new_name in self.objects and request.headers["Overwrite"] == "F":
            return Answer(412)
        self.objects[new_name] = self.objects.pop(name)
        return Answer(201)


@pytest.fixture
def collection() -> Collection:
    return Collection()


@pytest.fixture
def server(serve: Serve, collection: Collection) -> AnsweringServer:
    return serve(collection)


@pytest.fixture
def storage(server: AnsweringServer) -> Iterator[Storage]:
    with open_storage(Location.parse(server.url + "/dir/")) as opened:
        yield opened


def _read(storage: Storage, name: str) -> bytes:
    with storage.read(name) as chunks:
        return b"".join(chunks)


def test_an_image_is_claimed_written_published_read_and_removed(
    storage: Storage, collection: Collection
) -> None:
    storage.claim("image")
    assert collection.objects == {"image.part": CLAIM}
    storage.write("image.part", iter([b"some", b" data"]), 9)
    storage.publish("image", 9)
    assert collection.objects == {"image": b"some data"}
    assert _read(storage, "image") == b"some data"
    storage.remove("image")
    assert collection.objects == {}


@pytest.mark.parametrize("name", ["with space", "100%", "a?b#c", "büro 雪", "a;b&c+d", "%2e%2e"])
def test_a_name_with_special_characters_is_one_object(
    storage: Storage, collection: Collection, name: str
) -> None:
    storage.claim(name)
    storage.write(name + ".part", [b"data"], 4)
    storage.publish(name, 4)
    assert collection.objects == {name: b"data"}
    assert storage.size(name) == 4


@pytest.mark.parametrize("path", ["/d\u00e4", "/d%C3%A4", "/d\u0142", "/100%/\u96ea%20x"])
def test_a_collection_of_any_name_is_written_and_renamed_in(serve: Serve, path: str) -> None:
    class ByPath(Collection):
        """Has objects elsewhere than in ``/dir`` under their whole path."""

        def _move(self, name: str, request: Request) -> Answer:
            destination = request.headers["Destination"].encode("ascii").decode()
            self.objects[unquote(urlsplit(destination).path)] = self.objects.pop(name)
            return Answer(201)

    collection = ByPath()
    server = serve(collection)
    with open_storage(Location.parse(server.url + path)) as storage:
        storage.claim("image")
        storage.write("image.part", [b"data"], 4)
        storage.publish("image", 4)
    assert collection.objects == {unquote(path) + "/image": b"data"}


@pytest.mark.parametrize(
    "name",
    ["..", "node/..", "node/../..", "node/x/../../image", "node/./image", "node//image", "/"],
)
def test_a_name_that_leads_elsewhere_is_refused_before_a_request(
    storage: Storage, server: AnsweringServer, name: str
) -> None:
    operations: list[Callable[[], object]] = [
        lambda: storage.remove(name), lambda: storage.size(name), lambda: _read(storage, name),
        lambda: storage.rename("image", name), lambda: storage.make_collection(name),
    ]  # fmt: skip
    for operation in operations:
        with pytest.raises(errors.InvalidRequest, match="is not the name of an object"):
            operation()
    assert server.requests == []


def test_an_upload_has_its_length_in_the_header_and_is_not_chunked(
    storage: Storage, server: AnsweringServer
) -> None:
    storage.write("image.part", (bytes(1000) for _ in range(3)), 3000)
    headers = server.requests[-1].headers
    assert headers["Content-Length"] == "3000"
    assert "Transfer-Encoding" not in headers


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_that_lists_nothing_but_puts_and_moves_is_taken(
    storage: Storage, collection: Collection, status: int
) -> None:
    collection.answers["PROPFIND"] = Answer(status)
    storage.claim("image")
    assert collection.objects == {"image.part": CLAIM}


@pytest.mark.parametrize("taken", ["image", "image.part", "image.json"])
def test_a_name_that_is_taken_cannot_be_claimed(
    storage: Storage, collection: Collection, taken: str
) -> None:
    collection.objects[taken] = b"older"
    with pytest.raises(errors.InvalidRequest, match="/dir/%s exists.*choose another" % taken):
        storage.claim("image")
    assert collection.objects == {taken: b"older"}


def test_renaming_never_overwrites(storage: Storage, collection: Collection) -> None:
    collection.objects = {"image.part": b"new", "image": b"older"}
    with pytest.raises(errors.InvalidRequest, match="/dir/image appeared meanwhile"):
        storage.rename("image.part", "image")
    assert collection.objects == {"image.part": b"new", "image": b"older"}


class LosesAnswers(Collection):
    """Does a MOVE, but ``answer`` comes instead of its own; then calls ``afterwards``."""

    def __init__(self, answer: Answer, afterwards: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.answer = answer
        self.afterwards = afterwards

    def _move(self, name: str, request: Request) -> Answer:
        super()._move(name, request)
        self.afterwards()
        return self.answer


@pytest.mark.parametrize("answer", [Answer(None), Answer(500), Answer(502), Answer(504)])
def test_what_was_renamed_is_found_though_the_answer_was_lost(serve: Serve, answer: Answer) -> None:
    collection = LosesAnswers(answer)
    with open_storage(Location.parse(serve(collection).url + "/dir")) as storage:
        storage.claim("image")
        assert collection.objects == {"image.part": CLAIM}
        storage.write("image.part", [b"data"], 4)
        storage.publish("image", 4)
        assert collection.objects == {"image": b"data"}
        storage.write_manifest("image", b"{}")
        assert collection.objects == {"image": b"data", "image.json": b"{}"}


def test_whether_it_was_renamed_is_asked_until_the_server_is_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_away() -> None:
        collection.answers["HEAD"] = Answer(503)

    collection = LosesAnswers(Answer(None), go_away)
    monkeypatch.setattr(patience, "sleep", lambda _seconds: collection.answers.clear())
    collection.objects = {"image.part": b"data"}
    with open_storage(Location.parse(serve(collection).url + "/dir")) as storage:
        storage.publish("image", 4)
    assert collection.objects == {"image": b"data"}


def test_what_may_have_been_renamed_is_named_if_the_server_stays_away(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def go_away() -> None:
        collection.answers["HEAD"] = Answer(503)

    collection = LosesAnswers(Answer(None), go_away)
    monkeypatch.setattr(patience, "OUTAGE_S", 0)
    collection.objects = {"image.part": b"data"}
    with (
        open_storage(Location.parse(serve(collection).url + "/dir")) as storage,
        pytest.raises(errors.StorageUnavailable, match="cannot be reached"),
    ):
        storage.publish("image", 4)
    assert "/dir/image may be left behind: " in caplog.text


def test_an_interrupt_meanwhile_leaves_nothing_under_the_new_name(serve: Serve) -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)

    collection = LosesAnswers(Answer(201), interrupt)
    collection.objects = {"image.part": b"data"}
    with open_storage(Location.parse(serve(collection).url + "/dir")) as storage:
        with pytest.raises(KeyboardInterrupt):
            storage.publish("image", 4)
        assert collection.objects == {}


def test_an_image_gets_its_name_though_the_server_is_away_for_a_moment(
    storage: Storage, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.objects = {"image.part": b"data"}
    away = iter(["MOVE", "HEAD", None])

    def sleep(_seconds: float) -> None:
        collection.answers.clear()
        if method := next(away):
            collection.answers[method] = Answer(None)

    collection.answers["HEAD"] = Answer(None)
    monkeypatch.setattr(patience, "sleep", sleep)
    with storage.patiently():
        storage.publish("image", 4)
        assert collection.objects == {"image": b"data"}
        assert next(away, "all") == "all"
        away = iter(["PUT", "MOVE", None])
        collection.answers["DELETE"] = Answer(None)
        storage.remove("image.json")
        storage.write_manifest("image", b"{}")
    assert collection.objects == {"image": b"data", "image.json": b"{}"}
    assert next(away, "all") == "all"


def test_a_name_that_comes_late_is_found_by_the_next_try(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ComesLate(Collection):
        def _move(self, name: str, request: Request) -> Answer:
            if "image.part" not in self.objects:
                return super()._move(name, request)
            return Answer(None)

    collection = ComesLate()
    collection.objects = {"image.part": b"data"}

    def sleep(_seconds: float) -> None:
        collection.objects["image"] = collection.objects.pop("image.part")

    monkeypatch.setattr(patience, "sleep", sleep)
    with open_storage(Location.parse(serve(collection).url + "/dir")) as storage:
        storage.rename("image.part", "image")
    assert collection.objects == {"image": b"data"}


def test_an_object_that_was_not_renamed_is_another_s_under_the_new_name(
    storage: Storage, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "OUTAGE_S", 0)
    collection.objects = {"image.part": b"data", "image": b"other"}
    collection.answers["MOVE"] = Answer(None)
    with pytest.raises(errors.StorageUnavailable):
        storage.rename("image.part", "image")
    assert collection.objects == {"image.part": b"data", "image": b"other"}


ADVICE = [
    (401, "the user name, password or token is wrong or missing"),
    (403, "the account may not do this there"),
    (408, "the server waited too long for data"),
    (413, "the server limits the size of an upload"),
    (418, "see the server's log"),
    (423, "the object is locked"),
    (500, "the server failed: see its log, and whether it has space"),
    (502, "a proxy could not reach the server"),
    (503, "try again later"),
    (504, "a proxy had no answer"),
    (507, "the storage is full"),
    (300, "redirects are not followed: name the storage's final URL"),
    (301, "redirects are not followed"),
    (302, "redirects are not followed"),
    (304, "redirects are not followed"),
    (307, "redirects are not followed"),
    (308, "redirects are not followed"),
]
UNKNOWN = [(405, "is WebDAV enabled there"), (501, "is WebDAV enabled there")]
NOT_FOUND = [(404, "there is no such collection: create it, or correct the URL")]
CONFLICT = [(409, "the parent collection does not exist: create it, or correct the URL")]


def _operation(method: str, storage: Storage) -> None:
    match method:
        case "PROPFIND":
            storage.check()
        case "PUT":
            storage.write("image", [b"data"], 4)
        case "HEAD":
            storage.size("image")
        case "GET":
            _read(storage, "image")
        case "MOVE":
            storage.rename("image.part", "image")
        case "DELETE":
            storage.remove("image")


@pytest.mark.parametrize(
    ("method", "error", "status", "advice"),
    [
        (method, error, status, advice)
        for method, error, more in (
            ("PROPFIND", errors.StorageUnavailable, [*NOT_FOUND, (200, ""), (204, "")]),
            ("PUT", errors.WriteFailed, UNKNOWN + NOT_FOUND + CONFLICT),
            ("HEAD", errors.StorageUnavailable, [*UNKNOWN, (204, ""), (206, "")]),
            ("GET", errors.StorageUnavailable, [*UNKNOWN, *NOT_FOUND, (204, ""), (206, "")]),
            ("MOVE", errors.WriteFailed, [*UNKNOWN, *NOT_FOUND, *CONFLICT, (207, "")]),
            ("DELETE", errors.WriteFailed, [*UNKNOWN, (207, "")]),
        )
        for status, advice in ADVICE + more
    ],
)
def test_a_refusal_is_told_with_the_advice(
    storage: Storage,
    collection: Collection,
    method: str,
    error: type[errors.SnapshotError],
    status: int,
    advice: str,
) -> None:
    collection.objects = {"image.part": b"data"}
    collection.answers[method] = Answer(status, headers={"Location": "http://127.0.0.1:1/"})
    with pytest.raises(error) as caught:
        _operation(method, storage)
    assert caught.value.word == error.__name__
    assert " answered %d to %s: " % (status, method) in str(caught.value)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("method", "status", "advice"),
    [
        *(("PUT", *row) for row in ADVICE + UNKNOWN + NOT_FOUND + CONFLICT),
        *(("MOVE", *row) for row in ADVICE + NOT_FOUND + CONFLICT),
    ],
)
def test_a_storage_that_refuses_is_unavailable_before_anything_is_uploaded(
    storage: Storage, collection: Collection, method: str, status: int, advice: str
) -> None:
    collection.answers[method] = Answer(status)
    with pytest.raises(errors.StorageUnavailable, match=advice):
        storage.claim("image")
    assert collection.objects == {}


def test_a_probe_whose_answer_was_lost_is_removed(serve: Serve, collection: Collection) -> None:
    def lose_answer(request: Request) -> Answer:
        answer = collection(request)
        return Answer(None) if request.method == "PUT" else answer

    with (
        open_storage(Location.parse(serve(lose_answer).url + "/dir")) as storage,
        pytest.raises(errors.StorageUnavailable, match="cannot be reached"),
    ):
        storage.claim("image")
    assert collection.objects == {}


def test_removing_what_does_not_exist_is_no_error(storage: Storage, collection: Collection) -> None:
    collection.objects = {"kept": b""}
    storage.remove("image")
    assert collection.objects == {"kept": b""}


def test_the_size_of_what_does_not_exist_is_none(storage: Storage, collection: Collection) -> None:
    collection.objects = {"image": b"data"}
    assert (storage.size("image"), storage.size("other")) == (4, None)


@pytest.mark.parametrize("length", [None, "", "many", "-4", "4.5", "0x10", "9" * 5000])
def test_a_size_that_the_server_does_not_tell_is_not_guessed(
    storage: Storage, collection: Collection, length: str | None
) -> None:
    collection.answers["HEAD"] = collection.answers["GET"] = Answer(200, length=length)
    with pytest.raises(errors.StorageUnavailable, match=r"does not tell the size of .*/dir/image"):
        storage.size("image")


def test_a_size_that_head_does_not_tell_is_asked_for_with_get(
    storage: Storage, collection: Collection
) -> None:
    # as Apache does for an empty object
    collection.objects = {"image": b""}
    collection.answers["HEAD"] = Answer(200, length=None)
    assert storage.size("image") == 0


def test_a_redirect_is_not_followed_and_the_credentials_go_nowhere_else(serve: Serve) -> None:
    elsewhere = serve(lambda request: Answer(207))
    server = serve(
        lambda request: Answer(307, headers={"Location": elsewhere.url + request.target})
    )
    location = Location.parse(server.url + "/dir")
    with open_storage(location, Credentials(token="t0ken")) as storage:
        for method in ("PROPFIND", "PUT", "HEAD", "GET", "MOVE", "DELETE"):
            with pytest.raises(errors.SnapshotError, match="redirects are not followed"):
                _operation(method, storage)
    assert [request.method for request in server.requests] == [
        "PROPFIND", "PUT", "HEAD", "GET", "MOVE", "DELETE",
    ]  # fmt: skip
    assert elsewhere.requests == []


IMAGE = random.Random(1).randbytes(150)
LENGTHS = pytest.mark.parametrize("length", [None, len(IMAGE)], ids=["unknown", "known"])


class InRanges(Collection):
    """Writes ranges into its objects, as Apache does, holes included.

    ``failures`` are what it answers to the next parts that it has written, instead of 204.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_range: list[str] = []
        self.ranges: list[str] = []
        self.failures: list[Answer] = []

    def _put(self, name: str, request: Request) -> Answer:
        where = request.headers.get("Content-Range")
        if where is None:
            return super()._put(name, request)
        self.in_range.append(name)
        found = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/\*", where)
        assert found is not None, where
        start, end = int(found[1]), int(found[2]) + 1
        assert len(request.body) == end - start
        is_new = name not in self.objects
        old = self.objects.get(name, b"").ljust(start, b"\0")
        self.objects[name] = old[:start] + request.body + old[end:]
        if start % PART == 0:  # and not what shows that ranges are taken
            self.ranges.append(where)
            if self.failures:
                return self.failures.pop(0)
        return Answer(201 if is_new else 204)


PART = 40


@pytest.fixture
def in_ranges(monkeypatch: pytest.MonkeyPatch) -> InRanges:
    monkeypatch.setattr(parts, "PART", PART)
    monkeypatch.setattr(patience, "sleep", lambda _seconds: None)
    return InRanges()


@pytest.fixture
def server_log() -> list[str]:
    """The methods of the requests since the image was claimed."""
    return []


@pytest.fixture
def claimed(serve: Serve, in_ranges: InRanges, server_log: list[str]) -> Iterator[Storage]:
    """A storage whose server takes ranges, with the image claimed."""

    def respond(request: Request) -> Answer:
        server_log.append(request.method)
        return in_ranges(request)

    with open_storage(Location.parse(serve(respond).url + "/dir")) as opened:
        opened.claim("image")
        server_log.clear()
        yield opened


def pieces(size: int = 20) -> Iterator[bytes]:
    return (IMAGE[at : at + size] for at in range(0, len(IMAGE), size))


@LENGTHS
def test_an_image_is_written_in_parts_where_the_server_takes_them(
    claimed: Storage, in_ranges: InRanges, length: int | None
) -> None:
    claimed.write("image.part", pieces(), length)
    assert in_ranges.ranges == [
        "bytes 0-39/*", "bytes 40-79/*", "bytes 80-119/*", "bytes 120-149/*",
    ]  # fmt: skip
    claimed.publish("image", len(IMAGE))
    assert in_ranges.objects == {"image": IMAGE}


@LENGTHS
def test_what_is_no_larger_than_a_part_is_one_request(
    claimed: Storage, in_ranges: InRanges, length: int | None
) -> None:
    claimed.write("image.part", iter([b"small"]), 5 if length else None)
    assert in_ranges.objects == {"image.part": b"small"}
    assert in_ranges.ranges == []


def test_an_object_that_was_not_claimed_is_one_request(
    claimed: Storage, in_ranges: InRanges
) -> None:
    claimed.write("other", pieces(), len(IMAGE))
    assert in_ranges.objects["other"] == IMAGE
    assert in_ranges.in_range == []


class Appending(InRanges):
    """Takes a range for something to append."""

    def _put(self, name: str, request: Request) -> Answer:
        old = self.objects.get(name, b"") if "Content-Range" in request.headers else b""
        self.objects[name] = old + request.body
        return Answer(200)


class Replacing(InRanges):
    """Knows no ranges, and says that all is well (RFC 9110, 14.5)."""

    def _put(self, name: str, request: Request) -> Answer:
        self.objects[name] = request.body
        return Answer(201)


class Refusing(InRanges):
    """Refuses ranges, as WsgiDAV and nginx do."""

    def _put(self, name: str, request: Request) -> Answer:
        return Answer(501) if "Content-Range" in request.headers else super()._put(name, request)


class Unreadable(InRanges):
    """Takes ranges, but nobody may look."""

    def _get(self, name: str, request: Request) -> Answer:
        return Answer(403) if request.method == "GET" else super()._get(name, request)

    _head = _get


class Dropping(InRanges):
    """Closes the connection on a request that it does not understand."""

    def _put(self, name: str, request: Request) -> Answer:
        return Answer(None) if "Content-Range" in request.headers else super()._put(name, request)


@LENGTHS
@pytest.mark.parametrize("kind", [Appending, Replacing, Refusing, Unreadable, Dropping])
def test_a_server_that_does_not_show_that_it_takes_ranges_gets_one_request(
    serve: Serve, in_ranges: InRanges, length: int | None, kind: type[InRanges]
) -> None:
    server = serve(kind())
    assert isinstance(server.respond, InRanges)
    with open_storage(Location.parse(server.url + "/dir")) as storage:
        storage.claim("image")
        storage.write("image.part", pieces(), length)
        last = server.requests[-1]
        storage.publish("image", len(IMAGE))
    assert (last.method, last.body) == ("PUT", IMAGE)
    assert last.headers.get("Content-Length") == (str(length) if length else None)
    assert server.respond.objects == {"image": IMAGE}


@LENGTHS
@pytest.mark.parametrize("answer", [Answer(None), *map(Answer, (408, 502, 503, 504))])
def test_a_part_whose_answer_is_lost_is_sent_again(
    claimed: Storage, in_ranges: InRanges, length: int | None, answer: Answer
) -> None:
    in_ranges.failures = [answer, answer]
    claimed.write("image.part", pieces(17), length)
    claimed.publish("image", len(IMAGE))
    assert in_ranges.objects == {"image": IMAGE}
    assert len(set(in_ranges.ranges)) == len(in_ranges.ranges) - 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 411, 413, 416, 423, 500, 501, 507])
def test_a_part_that_is_refused_is_not_sent_again(
    claimed: Storage, in_ranges: InRanges, status: int
) -> None:
    in_ranges.failures = [Answer(204), Answer(status)]
    with pytest.raises(errors.WriteFailed, match="image.part answered %d to PUT" % status):
        claimed.write("image.part", pieces(), None)
    assert in_ranges.ranges == ["bytes 0-39/*", "bytes 40-79/*"]


@pytest.mark.parametrize(
    ("left", "found"),
    [(None, "nothing"), (b"", "0 bytes"), (bytes(79), "79 bytes"), (bytes(121), "121 bytes")],
)
def test_an_object_that_became_another_meanwhile_gets_no_further_part(
    claimed: Storage, in_ranges: InRanges, left: bytes | None, found: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(webdav, "_QUIET_S", 0.1)

    def meanwhile() -> Iterator[bytes]:
        for number, piece in enumerate(pieces(PART)):
            if number == 2:
                del in_ranges.objects["image.part"]
                if left is not None:
                    in_ranges.objects["image.part"] = left
                time.sleep(0.11)
            yield piece

    message = "image.part holds %s, expected 80 bytes so far" % found
    with pytest.raises(errors.StorageMismatch, match=message):
        claimed.write("image.part", meanwhile(), None)


@pytest.fixture
def kept_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server keep its connections; an answer that it does not give would be waited for."""
    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "protocol_version", "HTTP/1.1")


@LENGTHS
@pytest.mark.usefixtures("kept_connections")
def test_the_size_is_asked_for_only_after_a_failure(
    claimed: Storage, in_ranges: InRanges, length: int | None, server_log: list[str]
) -> None:
    in_ranges.failures = [Answer(204), Answer(503), Answer(204), Answer(204)]
    claimed.write("image.part", pieces(), length)
    # what shows that ranges are taken, and then the parts
    assert server_log == ["PUT", "GET", "PUT", "PUT", "HEAD", "PUT", "PUT", "PUT"]


@LENGTHS
def test_the_size_is_asked_for_where_the_connection_was_closed_after_the_last_part(
    claimed: Storage, in_ranges: InRanges, length: int | None, server_log: list[str]
) -> None:
    claimed.write("image.part", pieces(), length)
    claimed.publish("image", len(IMAGE))
    assert server_log[:9] == ["PUT", "GET", "PUT", *["HEAD", "PUT"] * 3]
    assert in_ranges.objects == {"image": IMAGE}


@pytest.mark.usefixtures("kept_connections")
def test_an_object_that_is_gone_at_once_is_told_by_the_server_that_makes_it(
    claimed: Storage, in_ranges: InRanges
) -> None:
    def meanwhile() -> Iterator[bytes]:
        for number, piece in enumerate(pieces(PART)):
            if number == 2:
                del in_ranges.objects["image.part"]
            yield piece

    message = "image.part holds nothing, expected 80 bytes so far"
    with pytest.raises(errors.StorageMismatch, match=message):
        claimed.write("image.part", meanwhile(), None)


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_without_move_gets_the_image_under_its_final_name(
    storage: Storage, collection: Collection, status: int
) -> None:
    collection.answers["MOVE"] = Answer(status)
    storage.claim("image")
    claim = collection.objects["image.part"]
    assert re.fullmatch(CLAIM + b" [0-9a-f]{32}", claim)
    storage.write(storage.part("image"), [b"data"], 4)
    assert collection.objects == {"image.part": claim, "image": b"data"}
    storage.publish("image", 4)
    storage.write_manifest("image", b"{}")
    assert collection.objects == {"image": b"data", "image.json": b"{}"}


def test_without_move_a_name_that_was_taken_meanwhile_is_left_to_who_has_it(
    storage: Storage, collection: Collection, server: AnsweringServer
) -> None:
    def respond(request: Request) -> Answer:
        if request.headers.get("If-None-Match") == "*":
            collection.objects["image.part"] = b"another's"
            return Answer(412)
        return collection(request)

    collection.answers["MOVE"] = Answer(405)
    server.respond = respond
    with pytest.raises(errors.InvalidRequest, match=r"image\.part exists: it is being written now"):
        storage.claim("image")
    assert collection.objects == {"image.part": b"another's"}


class WithoutMove(Collection):
    """Does not know MOVE, and answers ``answer`` to a claim after it did what is to be ``done``."""

    def __init__(self, answer: Answer, done: Callable[["WithoutMove", bytes], None]) -> None:
        super().__init__()
        self.answer = answer
        self.done = done
        self.answers["MOVE"] = Answer(405)

    def _put(self, name: str, request: Request) -> Answer:
        if name != "image.part":
            return super()._put(name, request)
        self.done(self, request.body)
        return self.answer


def _keep(server: WithoutMove, claim: bytes) -> None:
    server.objects["image.part"] = claim


def _keep_late(server: WithoutMove, claim: bytes) -> None:
    threading.Timer(0.1, _keep, (server, claim)).start()


def _keep_and_interrupt(server: WithoutMove, claim: bytes) -> None:
    _keep(server, claim)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(0.2)


def _keep_and_hide(server: WithoutMove, claim: bytes) -> None:
    _keep(server, claim)
    server.answers["GET"] = Answer(403)


def _have_another_s(server: WithoutMove, _claim: bytes) -> None:
    server.objects["image.part"] = CLAIM + b" " + b"0" * 32


def _lose(_server: WithoutMove, _claim: bytes) -> None:
    pass


@pytest.mark.parametrize(
    ("answer", "done", "error", "left"),
    [
        (Answer(None), _keep, errors.StorageUnavailable, ""),
        (Answer(None), _keep_late, errors.StorageUnavailable, ""),
        (Answer(502), _keep, errors.StorageUnavailable, ""),
        (Answer(201), _keep_and_interrupt, KeyboardInterrupt, ""),
        (Answer(None), _lose, errors.StorageUnavailable, ""),
        (Answer(None), _have_another_s, errors.StorageUnavailable, "another's"),
        (Answer(412), _have_another_s, errors.InvalidRequest, "another's"),
        (Answer(None), _keep_and_hide, errors.StorageUnavailable, "told"),
    ],
)
def test_without_move_a_claim_that_was_not_confirmed_blocks_no_name(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    answer: Answer, done: Callable[[WithoutMove, bytes], None], error: type[BaseException],
    left: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(webdav, "_LATE_S", 0.3)
    collection = WithoutMove(answer, done)
    with open_storage(Location.parse(serve(collection).url + "/dir")) as storage:
        with pytest.raises(error):
            storage.claim("image")
        assert list(collection.objects) == (["image.part"] if left else [])
    assert ("image.part may be left behind" in caplog.text) == (left == "told")


@pytest.mark.parametrize("method", ["PROPFIND", "HEAD", "GET"])
def test_a_server_that_asks_to_come_again_is_asked_again(
    storage: Storage, server: AnsweringServer, collection: Collection, method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    collection.objects = {"image": b"data"}
    collection.answers[method] = Answer(503, headers={"Retry-After": "20"})
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        del collection.answers[method]

    monkeypatch.setattr(patience, "sleep", sleep)
    _operation(method, storage)
    assert pauses == [20]
    assert [request.method for request in server.requests] == [method, method]


@pytest.mark.parametrize("method", ["PUT", "MOVE", "DELETE"])
def test_what_may_have_been_done_is_not_repeated(
    storage: Storage, server: AnsweringServer, collection: Collection, method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    collection.answers[method] = Answer(503, headers={"Retry-After": "1"})
    pauses: list[float] = []
    monkeypatch.setattr(patience, "sleep", pauses.append)
    with pytest.raises(errors.SnapshotError, match="answered 503 to " + method):
        _operation(method, storage)
    assert pauses == []
    assert [request.method for request in server.requests].count(method) == 1


@pytest.fixture
def refusing_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL of a port that is taken, but on which nobody listens; and nobody waits for that."""
    monkeypatch.setattr(patience, "OUTAGE_S", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield "http://127.0.0.1:%d/dir" % taken.getsockname()[1]


@pytest.mark.parametrize("method", ["PROPFIND", "HEAD", "GET", "MOVE", "DELETE"])
def test_a_server_that_is_away_is_named(refusing_url: str, method: str) -> None:
    with (
        open_storage(Location.parse(refusing_url)) as storage,
        pytest.raises(errors.StorageUnavailable, match=r"cannot be reached: .*refused") as hit,
    ):
        _operation(method, storage)
    assert str(hit.value).startswith(refusing_url)


def test_an_upload_to_a_server_that_is_away_failed(refusing_url: str) -> None:
    with (
        open_storage(Location.parse(refusing_url)) as storage,
        pytest.raises(errors.WriteFailed, match=r"broke off: .*cannot be reached"),
    ):
        storage.write("image.part", [b"data"], 4)


@pytest.mark.parametrize("host", ["a" * 64, "host..example"])
def test_a_host_that_cannot_be_is_unavailable(host: str) -> None:
    with (
        open_storage(Location.parse("http://%s/dir" % host)) as storage,
        pytest.raises(errors.StorageUnavailable, match="cannot be reached"),
    ):
        storage.check()


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("PROPFIND", errors.StorageUnavailable),
        ("PUT", errors.WriteFailed),
        ("HEAD", errors.StorageUnavailable),
        ("GET", errors.StorageUnavailable),
        ("MOVE", errors.StorageUnavailable),
        ("DELETE", errors.StorageUnavailable),
    ],
)
def test_a_connection_that_is_closed_without_an_answer_is_told(
    storage: Storage, collection: Collection, method: str, error: type[errors.SnapshotError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(patience, "OUTAGE_S", 0)
    collection.answers[method] = Answer(None)
    with pytest.raises(error, match="cannot be reached"):
        _operation(method, storage)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"some da", length=9),
        Answer(200, b"", length=9),
        Answer(200, b"9\r\nsome", {"Transfer-Encoding": "chunked"}, length=None),
    ],
)
def test_a_download_that_breaks_off_is_not_taken_for_the_whole(
    storage: Storage, collection: Collection, answer: Answer
) -> None:
    collection.answers["GET"] = answer
    with pytest.raises(errors.StorageUnavailable, match=r"reading .*/dir/image broke off"):
        _read(storage, "image")


def test_what_is_said_to_be_compressed_is_read_as_it_is(
    storage: Storage, collection: Collection
) -> None:
    # as an Apache says by the end of a name
    collection.answers["GET"] = Answer(200, b"nonsense", {"Content-Encoding": "gzip"})
    assert _read(storage, "image.gz") == b"nonsense"


def test_the_source_s_failure_passes_through_an_upload(storage: Storage) -> None:
    class SourceFailed(errors.SnapshotError):
        pass

    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise SourceFailed("at offset 4")

    with pytest.raises(SourceFailed, match="at offset 4"):
        storage.write("image.part", chunks(), 9)


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (None, None),
        (Credentials("anna", "s3cret"), "Basic " + base64.b64encode(b"anna:s3cret").decode()),
        (
            Credentials("bär", "pä:ss€"),
            "Basic " + base64.b64encode("bär:pä:ss€".encode()).decode(),
        ),
        (Credentials(token="t0ken"), "Bearer t0ken"),
    ],
)
@pytest.mark.parametrize("method", ["PROPFIND", "PUT", "HEAD", "GET", "MOVE", "DELETE"])
def test_every_request_carries_the_credentials(
    server: AnsweringServer,
    collection: Collection,
    credentials: Credentials | None,
    expected: str | None,
    method: str,
) -> None:
    collection.objects = {"image": b"data", "image.part": b"data"}
    if method == "MOVE":
        del collection.objects["image"]
    with open_storage(Location.parse(server.url + "/dir"), credentials) as storage:
        _operation(method, storage)
    assert [request.headers.get("Authorization") for request in server.requests] == [expected]


def test_no_error_holds_the_credentials(serve: Serve, refusing_url: str) -> None:
    server = serve(lambda request: Answer(401))
    for url in (server.url, refusing_url):
        with open_storage(Location.parse(url), Credentials("anna", "s3cret")) as storage:
            for method in ("PROPFIND", "PUT", "HEAD", "GET", "MOVE", "DELETE"):
                with pytest.raises(errors.SnapshotError) as caught:
                    _operation(method, storage)
                assert "s3cret" not in str(caught.value)


def test_netrc_is_not_used(
    server: AnsweringServer,
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login anna password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.check()
    assert "Authorization" not in server.requests[0].headers


def test_proxies_of_the_environment_are_not_used(
    serve: Serve, server: AnsweringServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(lambda request: Answer(502))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    storage.check()
    assert len(server.requests) == 1
    assert proxy.requests == []


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    return certificates.issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_url(issued: certificates.Certificates, collection: Collection) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    with AnsweringServer(collection, context) as server:
        yield server.url + "/dir"


def test_a_server_is_trusted_by_its_authority(
    tls_url: str, issued: certificates.Certificates
) -> None:
    with open_storage(Location.parse(tls_url), None, Trust(str(issued.cacert))) as storage:
        storage.claim("image")
        assert storage.size("image.part") == len(CLAIM)


def test_verification_can_be_turned_off_and_that_is_logged(
    tls_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_storage(Location.parse(tls_url), None, Trust(insecure=True)) as storage:
        storage.claim("image")
        assert storage.size("image.part") == len(CLAIM)
    assert caplog.messages == ["The server's certificate is not verified, as was asked for"]


def test_an_unknown_authority_is_not_trusted_whatever_the_environment_says(
    tls_url: str, issued: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(issued.cacert))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(issued.cacert))
    with (
        open_storage(Location.parse(tls_url)) as storage,
        pytest.raises(errors.StorageUnavailable, match=r"certificate is not trusted.*CA file"),
    ):
        storage.check()


def test_what_is_not_wanted_any_more_holds_nobody_up_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webdav, "_BRIEF_S", (1, 0.2))
    answers = threading.Event()

    def respond(request: Request) -> Answer:
        answers.wait(0.6 if request.method == "HEAD" else 30)
        return Answer(204 if request.method == "DELETE" else 200)

    with open_storage(Location.parse(serve(respond).url + "/dir")) as storage:
        began = time.monotonic()
        assert not storage.discard("image")
        assert time.monotonic() - began < 10
        assert storage.exists("image")  # which is waited for
        answers.set()
        assert storage.discard("image")
    assert "image may be left behind" in caplog.text


def test_only_the_thread_that_is_in_a_hurry_gives_up_soon(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdav, "_BRIEF_S", (1, 0.2))

    def respond(request: Request) -> Answer:
        time.sleep(0.6)
        return Answer()

    with (
        open_storage(Location.parse(serve(respond).url + "/dir")) as storage,
        ThreadPoolExecutor(1) as other,
        storage.briefly(),
    ):
        assert other.submit(storage.exists, "image").result()
        with pytest.raises(errors.StorageUnavailable, match="cannot be reached"):
            storage.exists("image")
