# SPDX-License-Identifier: Apache-2.0
"""Whatever an agent answers becomes a checked value or one clear error without the token."""

import contextlib
import gzip
import itertools
import json
import logging
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conductor_client import errors
from conductor_client.agent import Agent, Captured, NoAnswer, Status
from conductor_client.deadline import Deadline
from snapshot_core.credentials import Trust
from snapshot_core.encryption import PublicKey
from snapshot_core.progress import Progress
from tests.lab import certificates, hostile_server
from tests.lab.cutting_proxy import CuttingProxy
from tests.unit.conductor_client.fake_agent import (
    ID,
    TOKEN,
    FakeAgent,
    as_json,
    failed,
    result_about,
    running,
    succeeded,
)
from tests.unit.http_server import Answer, AnsweringServer, Request, Respond

Serve = Callable[[Respond], AnsweringServer]
PARAMS = {"url": "http://host/dir", "image_name": "image"}


@pytest.fixture
def connect(serve: Serve) -> Iterator[Callable[[Respond], Agent]]:
    agents: list[Agent] = []

    def connect(respond: Respond) -> Agent:
        agents.append(Agent(serve(respond).url, TOKEN, Trust()))
        return agents[-1]

    yield connect
    for agent in agents:
        with agent:
            pass


Connect = Callable[[Respond], Agent]


def _ask(agent: Agent, patience_s: float = 0) -> Status:
    return agent.status(ID, patience_s)


@pytest.mark.parametrize(
    "url",
    ["", "host", "host:9999", "ftp://host:9999", "http://", "http:///v1", "file:///etc/passwd",
     "https://user:s3cret@host:9999", "http://user:s3cret@[::1:9999"],
)  # fmt: skip
def test_a_url_that_is_no_agent_s_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        Agent(url, TOKEN, Trust())
    assert "s3cret" not in str(caught.value)


def test_the_command_is_started_with_its_parameters_and_the_token(serve: Serve) -> None:
    server = serve(FakeAgent())
    with Agent(server.url + "/", TOKEN, Trust()) as agent:
        assert agent.start(PARAMS) == ID
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/commands/?agent_token=" + TOKEN)
    assert json.loads(request.body) == {"name": "snapshot.stream_image", "params": PARAMS}


def test_the_command_is_asked_for_by_its_id(serve: Serve) -> None:
    server = serve(FakeAgent(running()))
    with Agent(server.url, TOKEN, Trust()) as agent:
        agent.status("../a b?", 0)
    assert server.requests[0].target == "/v1/commands/..%2Fa%20b%3F?agent_token=" + TOKEN


# The answers of a command that goes on or is done


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (running()["command_result"], Progress("stream", 10, 5, 3)),
        (running(eta_s=7)["command_result"], Progress("stream", 10, 5, 3, 7)),
        (running(bytes_done=-1)["command_result"], None),
        (running(phase=7)["command_result"], None),
        ({"progress": None}, None),
        ({"progress": [1]}, None),
        ({}, None),
        (None, None),
        ("result", None),
        ([], None),
    ],
)
def test_a_running_command_tells_its_progress_if_it_makes_sense(
    connect: Connect, result: object, expected: Progress | None
) -> None:
    agent = connect(FakeAgent({"command_status": "RUNNING", "command_result": result}))
    assert _ask(agent) == Status(progress=expected)


def test_a_command_that_succeeded_tells_what_is_stored(connect: Connect) -> None:
    result = result_about("image", b"data", extra=1)
    assert _ask(connect(FakeAgent(succeeded(result)))).captured == Captured(
        "image", "qcow2", 1024, 4, result["checksum"]["value"], 0, None, result
    )


def test_what_could_not_be_read_of_the_disk_is_told(connect: Connect) -> None:
    result = result_about("image", b"data", lost={"bytes": 512, "extents": [[0, 512]]})
    captured = _ask(connect(FakeAgent(succeeded(result)))).captured
    assert captured is not None
    assert captured.lost == 512


def test_for_whom_an_image_was_encrypted_is_told(connect: Connect) -> None:
    key = PublicKey(bytes(range(32)))
    encryption = {"method": "x25519-aes256gcm", "public_key": str(key)}
    result = result_about("image", b"data", encryption=encryption)
    captured = _ask(connect(FakeAgent(succeeded(result)))).captured
    assert captured is not None
    assert captured.encrypted_for == key


GOOD = result_about("image", b"data")
SHA512 = GOOD["checksum"]["value"]


@pytest.mark.parametrize(
    "result",
    [
        None, "done", 7, [], {}, {"result": "done"},
        *({key: value for key, value in GOOD.items() if key != missing} for missing in GOOD),
        *({**GOOD, "disk_format": value} for value in (None, "vmdk", "", ["qcow2"], {}, 7)),
        *({**GOOD, "encryption": value} for value in (
            7, [], {}, {"method": "rot13", "public_key": str(PublicKey(bytes(range(32))))},
            {"method": "x25519-aes256gcm", "public_key": "AAAA"},
            {"method": "x25519-aes256gcm", "public_key": 7})),
        *({**GOOD, "lost": value} for value in (7, [], {"bytes": -1}, {"bytes": True},
                                                {"bytes": 1025}, {"bytes": "1"})),
        *({**GOOD, key: value}
          for key in ("size", "virtual_size")
          for value in (None, 0, -1, True, "4", 4.0, [4], 2**63, 10**400)),
        *({**GOOD, "checksum": value}
          for value in (None, "sha512", SHA512, ["sha512", SHA512], {},
                        {"algorithm": "sha512"}, {"value": SHA512},
                        {"algorithm": "md5", "value": SHA512},
                        {"algorithm": ["sha512"], "value": SHA512},
                        *({"algorithm": "sha512", "value": value}
                          for value in (None, 7, "", SHA512[:-1], SHA512 + "0", SHA512.upper(),
                                        SHA512 + "\n", " " + SHA512[1:], [SHA512])))),
    ],
)  # fmt: skip
def test_an_unusable_result_is_a_failure_of_the_command(connect: Connect, result: object) -> None:
    with pytest.raises(errors.CommandFailed, match="the agent reports an unusable result: "):
        _ask(connect(FakeAgent(succeeded(result))))


@pytest.mark.parametrize(
    ("answer", "word", "details"),
    [
        (failed({"type": "DeviceInUse", "details": "it is mounted"}), "DeviceInUse", "is mounted"),
        (failed({"type": "X", "details": ""}), "X", "no details"),
        (failed({"details": "no type"}), "an error", "no type"),
        (failed({"type": ["X"], "details": {"a": 1}}), "['X']", "{'a': 1}"),
        (failed("a text"), "an error", "a text"),
        (failed(None), "an error", "FAILED"),
        (failed([]), "an error", "FAILED"),
        ({}, "an error", "None"),
        ({"command_status": "CLEAN_VERSION_MISMATCH"}, "an error", "CLEAN_VERSION_MISMATCH"),
        ({"command_status": ["RUNNING"]}, "an error", "['RUNNING']"),
    ],
)
def test_a_failed_command_tells_its_word_and_details(
    connect: Connect, answer: object, word: str, details: str
) -> None:
    with pytest.raises(errors.CommandFailed) as caught:
        _ask(connect(FakeAgent(answer)))
    assert caught.value.agent_word == word
    assert str(caught.value).startswith("the agent reports %s: " % word)
    assert details in str(caught.value)


def test_a_hostile_agent_s_failure_cannot_drive_the_terminal_nor_fill_it(
    connect: Connect,
) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\x00"
    with pytest.raises(errors.CommandFailed) as caught:
        _ask(connect(FakeAgent(failed({"type": evil * 100, "details": evil + "x" * 100_000}))))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2200


# Answers that are none


def _garbage(status: int = 200) -> list[Answer]:
    short = (b"", b"nonsense", b"<html>", b"[]", b"7", b"null", b'"text"', b"{", b"\xff\xfe")
    long = (b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}")
    return [Answer(status, body) for body in (*short, *long)]


PACKED = Answer(200, gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
TOO_LONG = Answer(200, b'{"id": "' + b"x" * 1024 * 1024 + b'"}')
BROKEN = [
    Answer(None),
    Answer(200, b'{"id":', length=100),
    Answer(200, b"", length=100),
    Answer(200, b"9\r\n{", {"Transfer-Encoding": "chunked"}, length=None),
]


@pytest.mark.parametrize("answer", [*_garbage(), *_garbage(400), PACKED, TOO_LONG])
def test_what_is_no_answer_of_an_agent_is_unavailable(connect: Connect, answer: Answer) -> None:
    agent = connect(lambda request: answer)
    for ask in (lambda: _ask(agent, 60), lambda: agent.start(PARAMS), agent.check):
        with pytest.raises(errors.AgentUnavailable, match=r"as an agent|too long") as caught:
            ask()
        assert caught.value.word == "AgentUnavailable"


def test_an_answer_that_unpacks_to_too_much_is_not_unpacked(serve: Serve) -> None:
    bomb = gzip.compress(b" " * 64 * 1024 * 1024)
    server = serve(lambda request: Answer(200, bomb, {"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        with Agent(server.url, TOKEN, Trust()) as agent:
            for ask in (lambda: _ask(agent), lambda: agent.start(PARAMS), agent.check):
                with pytest.raises(errors.AgentUnavailable, match="as an agent"):
                    ask()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


GIB = 1 << 30
OF_A_GIB: dict[str, Callable[[], Iterable[bytes]]] = {
    "a result": lambda: hostile_server.answer(
        200,
        "Content-Length: %d" % GIB,
        body=itertools.chain([b'{"a": "'], hostile_server.endless(b"x" * 65536)),
    ),
    "chunks": lambda: hostile_server.answer(
        200, "Transfer-Encoding: chunked", body=hostile_server.endless_chunks()
    ),
    "a refusal": lambda: hostile_server.answer(
        401, "Transfer-Encoding: chunked", body=hostile_server.endless_chunks()
    ),
    "no body": lambda: hostile_server.answer(
        204, "Transfer-Encoding: chunked", body=hostile_server.endless_chunks()
    ),
    "a redirect": lambda: hostile_server.answer(
        302, "Location: /", "Transfer-Encoding: chunked", body=hostile_server.endless_chunks()
    ),
    "headers": lambda: hostile_server.endless(b"X-More: and more\r\n"),
}


@pytest.mark.parametrize("kind", OF_A_GIB)
def test_an_answer_of_a_gib_is_not_taken_in(kind: str) -> None:
    tracemalloc.start()
    try:
        with (
            hostile_server.HostileServer(lambda _method, _path: OF_A_GIB[kind]()) as server,
            Agent(server.url, TOKEN, Trust()) as agent,
        ):
            for ask in (lambda: _ask(agent), lambda: agent.start(PARAMS), agent.check):
                with pytest.raises(errors.AgentUnavailable):
                    ask()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        assert server.most_sent < 16 << 20  # which the system's buffers take
    finally:
        tracemalloc.stop()


# What is sent at once; then a byte, again and again.
DRIPPING = {
    "headers": b"HTTP/1.1 200 OK\r\nX-More: ",
    "a body": b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{"a": "',
    "a body without an end": b'HTTP/1.1 200 OK\r\n\r\n{"a": "',
    "a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
    "a whole body without an end": b"HTTP/1.1 200 OK\r\n\r\n{}",
}


@pytest.fixture
def drip(issued: certificates.Certificates) -> Iterator[Callable[..., str]]:
    """Return a function that makes servers: they send first bytes, and then spaces for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    listeners = []

    def serve(listener: socket.socket, first: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                threading.Thread(target=send, args=(connection, first), daemon=True).start()

    def send(connection: socket.socket, first: bytes) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(first)
            while True:
                time.sleep(0.05)
                connection.sendall(b" ")

    def drip(first: bytes, *, tls: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        if tls:
            listener = context.wrap_socket(listener, server_side=True)
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, first), daemon=True).start()
        return "%s://127.0.0.1:%d" % ("https" if tls else "http", listener.getsockname()[1])

    yield drip
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kind", DRIPPING)
def test_an_agent_that_drips_is_one_that_does_not_answer(
    drip: Callable[..., str], issued: certificates.Certificates, kind: str, tls: bool
) -> None:
    url = drip(DRIPPING[kind], tls=tls)
    with Agent(url, TOKEN, Trust(str(issued.cacert)), (0.3, 0.3)) as agent:
        for ask in (lambda: _ask(agent), lambda: agent.start(PARAMS)):
            began = time.monotonic()
            with pytest.raises(NoAnswer, match="does not answer"):
                ask()
            assert 0.5 < time.monotonic() - began < 30
    assert [one for one in threading.enumerate() if isinstance(one, threading.Timer)] == []


def test_a_deadline_that_is_over_before_there_is_a_connection_cuts_that() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with Deadline(0.01) as deadline:
            time.sleep(0.1)
            deadline.watch(ours)
            assert deadline.is_over
            assert theirs.recv(1) == b""
        with Deadline(60) as deadline:
            deadline.watch(theirs)
        assert theirs.fileno() != -1


def test_a_redirect_to_what_is_no_url_is_an_agent_that_is_away(connect: Connect) -> None:
    agent = connect(lambda request: Answer(302, headers={"Location": "//[x"}))
    with pytest.raises(errors.AgentUnavailable, match="answers 302"):
        _ask(agent)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_is_told_at_once(connect: Connect, status: int) -> None:
    agent = connect(lambda request: as_json({"faultstring": "Token invalid."}, status))
    for ask in (lambda: _ask(agent, 60), lambda: agent.start(PARAMS), agent.check):
        with pytest.raises(errors.AgentUnavailable, match="refuses the token"):
            ask()


@pytest.mark.parametrize("status", [301, 302, 307, 500, 502, 503, 418, 204])
def test_another_status_is_an_agent_that_is_away(connect: Connect, status: int) -> None:
    agent = connect(lambda request: Answer(status, headers={"Location": "http://127.0.0.1:1/"}))
    for ask in (lambda: _ask(agent), lambda: agent.start(PARAMS), agent.check):
        with pytest.raises(errors.AgentUnavailable, match="answers %d" % status) as caught:
            ask()
        assert caught.value.word == "AgentUnavailable"


@pytest.mark.parametrize("answer", BROKEN)
def test_an_answer_that_breaks_off_is_an_agent_that_is_away(
    connect: Connect, answer: Answer
) -> None:
    agent = connect(lambda request: answer)
    for ask in (lambda: _ask(agent), lambda: agent.start(PARAMS), agent.check):
        with pytest.raises(errors.AgentUnavailable):
            ask()


@pytest.mark.parametrize("answer", [*BROKEN, Answer(500), Answer(503, b"nonsense")])
def test_an_agent_that_is_silent_for_a_while_is_asked_again(
    connect: Connect, answer: Answer
) -> None:
    agent = connect(FakeAgent(answer, answer, running()))
    assert _ask(agent, patience_s=60).progress == Progress("stream", 10, 5, 3)


def test_the_patience_with_a_silent_agent_ends(serve: Serve) -> None:
    server = serve(lambda request: Answer(None))
    began = time.monotonic()
    with (
        Agent(server.url, TOKEN, Trust()) as agent,
        pytest.raises(errors.AgentUnavailable, match="does not answer"),
    ):
        agent.status(ID, 0.5)
    assert 0.5 <= time.monotonic() - began < 30
    assert len(server.requests) > 1


def test_starting_is_not_repeated(serve: Serve) -> None:
    server = serve(lambda request: Answer(None))
    with (
        Agent(server.url, TOKEN, Trust()) as agent,
        pytest.raises(errors.AgentUnavailable, match="does not answer"),
    ):
        agent.start(PARAMS)
    assert len(server.requests) == 1


def test_a_command_that_the_agent_has_forgotten_is_lost(connect: Connect) -> None:
    agent = connect(lambda request: as_json({"faultstring": "not found"}, 404))
    with pytest.raises(errors.AgentUnavailable, match="was restarted, and the snapshot is lost"):
        _ask(agent, 60)


# Refusals of the command


@pytest.mark.parametrize(
    ("status", "fault", "error", "message"),
    [
        (400, "InvalidRequest: unknown writer 'x'", errors.InvalidRequest,
         "the agent refuses: unknown writer 'x'"),
        (400, "Invalid command: Unknown command: stream_image", errors.AgentUnavailable,
         "built without ipa-snapshot"),
        (404, "Not found: Extension with id snapshot not found.", errors.AgentUnavailable,
         "built without ipa-snapshot"),
        (404, None, errors.AgentUnavailable, "no reason given"),
        (404, ["a"], errors.AgentUnavailable, "built without ipa-snapshot"),
        (409, "Agent is busy: executing command x", errors.AgentUnavailable,
         "is busy: Agent is busy: executing command x; wait until that is done"),
        (400, "InvalidRequest: \x1b[2J" + "x" * 10_000, errors.InvalidRequest, r"\?\[2Jxxx"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_with_the_agent_s_reason(
    connect: Connect, status: int, fault: object, error: type[errors.SnapshotError], message: str
) -> None:
    agent = connect(lambda request: as_json({"faultstring": fault}, status))
    with pytest.raises(error, match=message) as caught:
        agent.start(PARAMS)
    assert type(caught.value) is error
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2200


def test_an_agent_that_refuses_the_bare_command_as_we_do_is_ready(serve: Serve) -> None:
    server = serve(FakeAgent())
    with Agent(server.url, TOKEN, Trust()) as agent:
        agent.check()
    assert json.loads(server.requests[0].body)["params"] == {}


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (404, {"faultstring": "Extension with id snapshot not found."}, "without ipa-snapshot"),
        (400, {"faultstring": "Invalid command: x"}, "without ipa-snapshot"),
        (409, {"faultstring": "Agent is busy"}, "is busy"),
        (409, {"faultstring": "InvalidRequest: busy"}, "is busy"),
        (200, failed({"type": "TypeError"}), "without ipa-snapshot"),
        (404, {"faultstring": "InvalidRequest: x"}, "refuses: x"),
    ],
)
def test_any_other_agent_is_not_ready(
    connect: Connect, status: int, answer: object, message: str
) -> None:
    agent = connect(lambda request: as_json(answer, status))
    with pytest.raises(errors.SnapshotError, match=message):
        agent.check()


# The token


def _links(exc: BaseException | None) -> Iterator[BaseException]:
    pending, seen = [exc], set()
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            pending += [link.__cause__, link.__context__]


def _refusing_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


refusing_port = pytest.fixture(_refusing_port)


def _assert_no_token(url: str) -> None:
    with Agent(url, TOKEN, Trust()) as agent:
        for ask in (lambda: _ask(agent), lambda: agent.start(PARAMS), agent.check):
            with pytest.raises(errors.SnapshotError) as caught:
                ask()
            shown = [text for link in _links(caught.value) for text in (str(link), repr(link))]
            assert not [text for text in shown if TOKEN in text]


@pytest.mark.parametrize(
    "answer",
    [*BROKEN, TOO_LONG, Answer(200, b"nonsense"), Answer(500), Answer(302),
     as_json({"faultstring": "x"}, 401), as_json({"faultstring": "x"}, 404),
     as_json({"faultstring": "x"}, 409), as_json({"faultstring": "InvalidCommand"}, 400),
     as_json(failed({"type": "X"})), as_json(succeeded({}))],
)  # fmt: skip
def test_the_token_is_in_no_exception_of_a_failure(serve: Serve, answer: Answer) -> None:
    _assert_no_token(serve(lambda request: answer).url)


def test_the_token_is_in_no_exception_when_nobody_listens(refusing_port: int) -> None:
    _assert_no_token("http://127.0.0.1:%d" % refusing_port)


@pytest.mark.parametrize("host", ["a" * 64, "host..example"])
def test_the_token_is_in_no_exception_of_a_host_that_cannot_be(host: str) -> None:
    _assert_no_token("http://%s:9999" % host)


def test_the_token_is_in_no_record_of_the_http_library(
    connect: Connect, caplog: pytest.LogCaptureFixture, refusing_port: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        agent = connect(FakeAgent(Answer(None), Answer(500), running()))
        agent.check()
        agent.start(PARAMS)
        _ask(agent, patience_s=60)
        with (
            Agent("http://127.0.0.1:%d" % refusing_port, TOKEN, Trust()) as away,
            pytest.raises(errors.AgentUnavailable),
        ):
            away.start(PARAMS)
    assert "agent_token=<hidden>" in caplog.text
    assert not [record for record in caplog.records if TOKEN in str(vars(record))]


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    return certificates.issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_url(issued: certificates.Certificates) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    with AnsweringServer(FakeAgent(running()), context) as server:
        yield server.url


def test_an_agent_s_own_certificate_is_trusted_by_its_authority(
    tls_url: str, issued: certificates.Certificates
) -> None:
    with Agent(tls_url, TOKEN, Trust(str(issued.cacert))) as agent:
        agent.check()


def test_an_unknown_authority_is_told_at_once_whatever_the_environment_says(
    tls_url: str, issued: certificates.Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(issued.cacert))
    with (
        Agent(tls_url, TOKEN, Trust()) as agent,
        pytest.raises(errors.AgentUnavailable, match="is not trusted: pass its authority"),
    ):
        _ask(agent, patience_s=60)
    _assert_no_token(tls_url)


def test_a_tls_handshake_that_is_cut_is_an_agent_that_is_silent_for_a_moment(
    tls_url: str, issued: certificates.Certificates
) -> None:
    with CuttingProxy(int(tls_url.rpartition(":")[2]), 1, 1) as proxy:
        url = "https://127.0.0.1:%d" % proxy.port
        with Agent(url, TOKEN, Trust(str(issued.cacert))) as agent:
            assert _ask(agent, patience_s=60).progress == Progress("stream", 10, 5, 3)
        assert proxy.connections == 3


def test_proxies_and_netrc_of_the_environment_are_not_used(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(lambda request: Answer(502)), serve(FakeAgent(running()))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login anna password s3cret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    with Agent(server.url, TOKEN, Trust()) as agent:
        _ask(agent)
    assert proxy.requests == []
    assert "Authorization" not in server.requests[0].headers


def test_a_redirect_does_not_carry_the_token_away(serve: Serve) -> None:
    elsewhere = serve(FakeAgent(running()))

    def redirect(request: Request) -> Answer:
        return Answer(307, headers={"Location": elsewhere.url + request.target})

    with (
        Agent(serve(redirect).url, TOKEN, Trust()) as agent,
        pytest.raises(errors.AgentUnavailable, match="answers 307"),
    ):
        agent.start(PARAMS)
    assert elsewhere.requests == []


def test_an_agent_that_accepts_without_an_id_cannot_be_followed(connect: Connect) -> None:
    for answer in ({"command_status": "RUNNING"}, {"command_status": "RUNNING", "id": None}):
        agent = connect(lambda request, answer=answer: as_json(answer))
        with pytest.raises(errors.SnapshotError):
            agent.start(PARAMS)


def test_a_command_that_fails_at_once_is_told(connect: Connect) -> None:
    def fail(params: dict[str, Any]) -> Answer:
        return as_json(failed({"type": "TypeError", "details": "unexpected"}))

    with pytest.raises(errors.CommandFailed, match="TypeError: unexpected"):
        connect(FakeAgent(on_start=fail)).start(PARAMS)
