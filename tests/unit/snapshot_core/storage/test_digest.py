# SPDX-License-Identifier: Apache-2.0
"""A storage that asks for Digest gets each body once and whole, and the password never."""

import base64
import hashlib
import random
import re
from collections.abc import Callable, Iterator

import pytest

from snapshot_core import errors
from snapshot_core.credentials import Credentials
from snapshot_core.location import Location
from snapshot_core.storage import open_storage, parts, patience
from snapshot_core.storage.base import Storage
from tests.unit.http_server import Answer, AnsweringServer, Request, Respond
from tests.unit.snapshot_core.storage.test_webdav import InRanges

ACCOUNT = Credentials("anna", "s3cret", scheme="digest")
IMAGE = random.Random(1).randbytes(150)
Serve = Callable[[Respond], AnsweringServer]


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


class WithDigest:
    """A WebDAV server that takes the answer to a challenge, ``uses`` times."""

    def __init__(self, uses: int) -> None:
        self.collection = InRanges()
        self.uses = uses
        self.refused_bodies = 0
        self._left: dict[str, int] = {}

    def __call__(self, request: Request) -> Answer:
        if self._is_right(request):
            return self.collection(request)
        self.refused_bodies += bool(request.body)
        nonce = "nonce-%d" % len(self._left)
        self._left[nonce] = self.uses
        challenge = 'Digest realm="a realm", nonce="%s", qop="auth", stale=true' % nonce
        # as long as it says only if someone waits for it
        return Answer(401, b"no", {"WWW-Authenticate": challenge}, length=10**12)

    def restart(self) -> None:
        """Know no nonce of before."""
        self._left = dict.fromkeys(self._left, 0)

    def _is_right(self, request: Request) -> bool:
        found = dict(re.findall(r'(\w+)="?([^",]*)', request.headers.get("Authorization", "")))
        if self._left.get(found.get("nonce", ""), 0) <= 0:
            return False
        self._left[found["nonce"]] -= 1
        assert found["uri"] == request.target
        words = [md5("anna:a realm:s3cret"), found["nonce"], found["nc"], found["cnonce"], "auth"]
        return found["response"] == md5(
            ":".join([*words, md5("%s:%s" % (request.method, request.target))])
        )


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 100)
    monkeypatch.setattr(patience, "sleep", lambda _seconds: None)


def open_with(server: AnsweringServer, account: Credentials = ACCOUNT) -> Storage:
    return open_storage(Location.parse(server.url + "/dir"), account)


def blocks() -> Iterator[bytes]:
    yield from (IMAGE[start : start + 40] for start in range(0, len(IMAGE), 40))


@pytest.mark.parametrize("uses", [1, 3, 1000])
@pytest.mark.parametrize("takes_ranges", [True, False])
@pytest.mark.parametrize("length", [None, len(IMAGE)])
def test_an_image_is_stored_however_long_a_challenge_is_good(
    serve: Serve, uses: int, takes_ranges: bool, length: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    respond = WithDigest(uses)
    server = serve(respond)
    with open_with(server) as storage:
        if not takes_ranges:
            monkeypatch.setattr(storage, "_takes_ranges", lambda _name: False)
        storage.check()
        storage.claim("image")
        storage.write("image.part", blocks(), length)
        storage.publish("image", len(IMAGE))
        with storage.read("image") as chunks:
            assert b"".join(chunks) == IMAGE
        storage.remove("image")
    assert respond.collection.objects == {}
    if uses == 1000:
        assert respond.refused_bodies == 0
    assert_the_password_is_not_sent(server)


def assert_the_password_is_not_sent(server: AnsweringServer) -> None:
    sent = [request.headers.get("Authorization", "") for request in server.requests]
    assert {header.partition(" ")[0] for header in sent} <= {"", "Digest"}
    basic = base64.b64encode(b"anna:s3cret").decode()
    assert not any("s3cret" in header or basic in header for header in sent)


def assert_stored_over_a_restart(server: AnsweringServer, respond: WithDigest) -> None:
    with open_with(server) as storage:
        storage.claim("image")

        def until_it_restarts() -> Iterator[bytes]:
            yield IMAGE[:100]
            respond.restart()
            yield IMAGE[100:]

        storage.write("image.part", until_it_restarts(), len(IMAGE))
    assert respond.collection.objects == {"image.part": IMAGE}


def test_a_part_is_sent_again_to_a_server_that_was_restarted(serve: Serve) -> None:
    respond = WithDigest(1000)
    assert_stored_over_a_restart(serve(respond), respond)


def test_a_server_that_breaks_off_at_an_old_answer_is_asked_for_a_new_challenge(
    serve: Serve,
) -> None:
    respond = WithDigest(1000)

    def impatient(request: Request) -> Answer:
        answer = respond(request)
        return Answer(None) if answer.status == 401 and request.body else answer

    assert_stored_over_a_restart(serve(impatient), respond)


def test_a_wrong_password_is_told_and_not_tried_for_ever(serve: Serve) -> None:
    server = serve(WithDigest(1000))
    with (
        open_with(server, Credentials("anna", "wrong", scheme="digest")) as storage,
        pytest.raises(errors.StorageUnavailable, match="answered 401 to PROPFIND: the user name"),
    ):
        storage.check()
    assert len(server.requests) == 2


@pytest.mark.parametrize("challenge", ['Basic realm="a realm"', "Digest", None])
def test_a_server_that_asks_for_the_password_itself_does_not_get_it(
    serve: Serve, challenge: str | None
) -> None:
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    server = serve(lambda _request: Answer(401, headers=headers))
    with open_with(server) as storage:
        for operation in (
            storage.check,
            lambda: storage.size("image"),
            lambda: storage.write("image", blocks(), len(IMAGE)),
        ):
            with pytest.raises(errors.SnapshotError, match="does not ask for Digest"):
                operation()
    assert all("Authorization" not in request.headers for request in server.requests)


def test_a_storage_that_asks_for_nothing_is_written_to_all_the_same(serve: Serve) -> None:
    collection = InRanges()
    with open_with(serve(collection)) as storage:
        storage.claim("image")
        storage.write("image.part", blocks(), None)
        storage.publish("image", len(IMAGE))
    assert collection.objects == {"image": IMAGE}
