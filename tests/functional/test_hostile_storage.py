# SPDX-License-Identifier: Apache-2.0
"""A storage that is hostile gets neither memory nor time, nor what it has not been given."""

import gzip
import json
import pathlib
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import pytest

from conductor_client import collection
from conductor_client.access import StorageAccess
from conductor_client.ramdisk_step import read_manifest
from conductor_client.reap import reap
from conductor_client.verified import VerifiedImage
from snapshot_core import errors
from snapshot_core.credentials import Credentials
from snapshot_core.location import Location
from snapshot_core.storage import open_storage, patience
from snapshot_core.storage.base import Storage
from tests.functional import commands
from tests.lab.hostile_server import HostileServer, Say, answer, endless, endless_chunks

MIB = 1 << 20
# What the system's buffers take of an answer that nobody reads.
BUFFERED = 16 * MIB
OPERATIONS: dict[str, Callable[[Storage], object]] = {
    "PROPFIND": lambda storage: storage.check(),
    "PUT": lambda storage: storage.write("image", [b"data"], 4),
    "HEAD": lambda storage: storage.size("image"),
    "exists": lambda storage: storage.exists("image"),
    "GET": lambda storage: read_manifest(storage, "image"),
    "MOVE": lambda storage: storage.rename("image.part", "image"),
    "DELETE": lambda storage: storage.remove("image"),
    "MKCOL": lambda storage: storage.make_collection("node"),
    "claim": lambda storage: storage.claim("image"),
}
ACCOUNTS = {
    "Basic": Credentials("anna", "s3cret"), "Digest": Credentials("anna", "s3cret", scheme="digest")
}  # fmt: skip
CHUNKED = "Transfer-Encoding: chunked"
OK = b"HTTP/1.1 200 OK\r\n"
CHALLENGE = 'WWW-Authenticate: Digest realm="x", nonce="y", qop="auth"'


def after(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


HOSTILE: dict[str, Callable[[], Iterable[bytes]]] = {
    "an endless body": lambda: answer(200, body=endless()),
    "a body of a petabyte": lambda: answer(200, "Content-Length: 1%s" % ("0" * 15), body=endless()),
    "endless chunks": lambda: answer(200, CHUNKED, body=endless_chunks()),
    "endless chunks of a list": lambda: answer(207, CHUNKED, body=endless_chunks()),
    "endless chunks of what has no body": lambda: answer(204, CHUNKED, body=endless_chunks()),
    "a chunk whose length has no end": lambda: answer(200, CHUNKED, body=endless(b"0" * 65536)),
    "a refusal without end": lambda: answer(401, CHALLENGE, CHUNKED, body=endless_chunks()),
    "a status line without end": lambda: after(OK.strip(), endless(b"K" * 999)),
    "headers without end": lambda: after(OK, endless(b"X-More: and more\r\n")),
    "a header without end": lambda: after(OK + b"X-More: ", endless(b"x" * 65536)),
    "a challenge of 64 KiB": lambda: answer(401, CHALLENGE + "," * 65000),
    "no HTTP": lambda: [b"\x1b]0;owned\x07\x00\xff" * 100],
    "nothing": lambda: [],
    "a negative length": lambda: answer(200, "Content-Length: -1", body=[b"x"]),
    "two lengths": lambda: answer(200, "Content-Length: 4", "Content-Length: 9", body=[b"x"]),
    "fewer bytes than the length": lambda: answer(207, "Content-Length: 400", body=[b"x"]),
    "what does not unpack": lambda: answer(
        207, "Content-Encoding: gzip", "Content-Length: 4", body=[b"none"]
    ),
    "a redirect without end": lambda: answer(302, "Location: /", CHUNKED, body=endless_chunks()),
    "a redirect to nowhere": lambda: answer(302, "Location: //\x1b[2J:99999999/"),
    "a time that cannot be": lambda: answer(503, "Retry-After: Fri, 31 Dec 9999 23:59:59 -2359"),
    "a number without end": lambda: answer(503, "Retry-After: " + "9" * 4000),
}


def say(what: Callable[[], Iterable[bytes]]) -> Say:
    return lambda _method, _path: what()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is repeated for an outage is repeated elsewhere."""
    monkeypatch.setattr(patience, "OUTAGE_S", 0)


@pytest.fixture
def memory() -> Iterator[Callable[[], int]]:
    """Return a function that tells the most memory that was held since it was asked, in bytes."""
    tracemalloc.start()

    def most() -> int:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        return peak

    yield most
    tracemalloc.stop()


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_each_operation_ends_soon_and_in_little_memory(
    kind: str, account: str, memory: Callable[[], int]
) -> None:
    with HostileServer(say(HOSTILE[kind])) as server:
        for name, operation in OPERATIONS.items():
            began = time.monotonic()
            with open_storage(Location.parse(server.url + "/dir"), ACCOUNTS[account]) as storage:
                try:
                    operation(storage)
                except errors.SnapshotError as exc:
                    assert str(exc).isprintable()
                    assert "s3cret" not in str(exc)
            assert time.monotonic() - began < 10, name
            assert server.most_sent < BUFFERED, name
            assert memory() < 8 * MIB, name


@pytest.mark.parametrize("kind", HOSTILE)
def test_listing_ends_soon_and_in_bounded_memory(kind: str, memory: Callable[[], int]) -> None:
    with HostileServer(say(HOSTILE[kind])) as server:
        access = StorageAccess.of(server.url + "/dir")
        with access.opened() as storage, pytest.raises(errors.StorageUnavailable) as caught:
            collection.members(access, storage)
    assert str(caught.value).isprintable()
    assert server.most_sent < BUFFERED + 16 * MIB
    assert memory() < 64 * MIB


def test_an_image_is_not_read_further_than_its_size(memory: Callable[[], int]) -> None:
    for kind in ("an endless body", "endless chunks", "a body of a petabyte"):
        with (
            HostileServer(say(HOSTILE[kind])) as server,
            open_storage(Location.parse(server.url + "/dir")) as storage,
        ):
            passed_on = 0
            with pytest.raises(errors.StorageMismatch, match="bytes or more"):
                for block in VerifiedImage(storage, "image", 5 * MIB, "0" * 128):
                    passed_on += len(block)
            assert passed_on <= 5 * MIB
            assert server.most_sent < BUFFERED + 5 * MIB
        assert memory() < 16 * MIB


def test_what_a_server_says_that_an_image_unpacks_to_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    headers = ("Content-Encoding: gzip", "Content-Length: %d" % len(bomb))
    with (
        HostileServer(say(lambda: answer(200, *headers, body=[bomb]))) as server,
        open_storage(Location.parse(server.url + "/dir")) as storage,
        storage.read("image") as chunks,
    ):
        assert b"".join(chunks) == bomb


def test_names_that_lead_elsewhere_are_not_followed() -> None:
    hrefs = ("/dir/..", "/dir/../../etc/passwd.json", "/dir/a%2F..%2F..%2Fb.json", "//evil/x.json",
             "/dir/.", "/dir/%1B[2J.json", "http://evil.example/dir/c.json", "/")  # fmt: skip
    rows = "".join("<response><href>%s</href></response>" % href for href in hrefs)
    body = ('<multistatus xmlns="DAV:">%s</multistatus>' % rows).encode()
    length = "Content-Length: %d" % len(body)

    def say(method: str, _path: str) -> Iterable[bytes]:
        return answer(207, length, body=[body]) if method == "PROPFIND" else answer(404)

    with HostileServer(say) as server:
        access = StorageAccess.of(server.url + "/dir")
        with access.opened() as storage:
            assert not any("/" in one.name for one in collection.members(access, storage))
        assert reap(access, 0) == []
    targets = [head.split(" ")[1] for head in server.asked]
    assert all(target.startswith("/dir/") and ".." not in target for target in targets)


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("writer", ["stream", "dd"])
def test_a_redirect_gets_the_command_nowhere(
    small_loop: str, auth_files: dict[str, pathlib.Path], account: str, writer: str
) -> None:
    with HostileServer(say(lambda: answer(200))) as elsewhere:
        location = "Location: %s/dir/" % elsewhere.url
        with HostileServer(say(lambda: answer(307, location, "Content-Length: 0"))) as server:
            outcome = commands.run(
                "ipa-snapshot", "stream", server.url + "/dir", "image", "--device", small_loop,
                "--auth-file", auth_files[account], "--writer", writer, "--debug",
            )  # fmt: skip
    assert outcome.code == 1
    assert "answered 307 to PROPFIND: redirects are not followed" in outcome.error
    assert "s3cret" not in outcome.err
    assert elsewhere.asked == []


@pytest.fixture
def auth_files(tmp_path: pathlib.Path) -> dict[str, pathlib.Path]:
    """An auth file for each of the accounts."""
    files = {name: tmp_path / name for name in ACCOUNTS}
    for name, path in files.items():
        path.touch(mode=0o600)
        path.write_text(json.dumps(ACCOUNTS[name].to_wire()))
    return files


@pytest.mark.parametrize(
    "lie",
    ["the size is more", "the size is less", "the size is no number", "all is well"],
)
def test_a_storage_that_lies_about_what_it_holds_does_not_get_an_image_published(
    small_loop: str, auth_files: dict[str, pathlib.Path], lie: str
) -> None:
    lengths = {"the size is more": 10**12, "the size is less": 7, "all is well": 0}

    def say(method: str, path: str) -> Iterable[bytes]:
        if method == "HEAD" and "part" not in path:
            return answer(404)
        if method == "HEAD":
            return answer(200, "Content-Length: %s" % lengths.get(lie, "x"))
        status = {"PROPFIND": 207, "GET": 200}.get(method, 201)
        return answer(status, *(() if method == "GET" else ["Content-Length: 0"]))

    with HostileServer(say) as server:
        outcome = commands.run(
            "ipa-snapshot", "stream", server.url + "/dir", "image", "--device", small_loop,
            "--auth-file", auth_files["Basic"],
        )  # fmt: skip
    assert outcome.code == 1
    assert "StorageMismatch" in outcome.error or "does not tell the size" in outcome.error
    moves = [head for head in server.asked if head.startswith("MOVE")]
    assert all("image.part" in head for head in moves)  # the claim's own, and none of an image
