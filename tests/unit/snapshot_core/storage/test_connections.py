# SPDX-License-Identifier: Apache-2.0
"""A server that takes nothing for a while is waited for, and not for ever."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from snapshot_core.credentials import Trust
from snapshot_core.storage import connections
from snapshot_core.storage.exchange import Body, exchange, open_session
from snapshot_core.storage.patience import Away

MIB = 1024 * 1024
# More than both sockets hold.
BODY = [bytes(MIB)] * 24


@pytest.fixture
def serve_slowly() -> Iterator[Callable[[float], str]]:
    """Return what starts a server that pauses in each request, and tells its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(pause_s: float) -> None:
        client, _ = listener.accept()
        with client:
            while client.recv(1):
                time.sleep(pause_s)
                left = len(BODY) * MIB
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += client.recv(1)
                while left and (block := client.recv(min(left, MIB))):
                    left -= len(block)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def start(pause_s: float) -> str:
        threading.Thread(target=answer, args=(pause_s,), daemon=True).start()
        return "http://127.0.0.1:%d/" % listener.getsockname()[1]

    yield start
    listener.close()


def put(url: str, times: int = 1) -> None:
    with open_session(None, Trust()) as session:
        for _ in range(times):
            with exchange(
                session, "PUT", url, (0.2, 60), data=Body(BODY, len(BODY) * MIB)
            ) as answer:
                assert answer.status_code == 200


def test_sending_may_take_longer_than_connecting_on_a_connection_that_is_used_again_too(
    serve_slowly: Callable[[float], str],
) -> None:
    put(serve_slowly(0.6), times=2)


def test_a_server_that_takes_nothing_any_more_is_away(
    serve_slowly: Callable[[float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SENDING_S", 0.4)
    with pytest.raises(Away, match="timed out"):
        put(serve_slowly(1.5))
