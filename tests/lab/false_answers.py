# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on 127.0.0.1 before a storage that is not to be relied on once it has an upload."""

import contextlib
import socket
import threading
from collections.abc import Callable

from tests.lab.proxy import BLOCK, Proxy, end


class FalseAnswers(Proxy):
    """Forwards to the plain HTTP server at ``port``, and interferes when that answered a PUT.

    It looks at the PUTs of one ``path``. The first ``spared`` of them are left alone. What the
    server answers to the next one is when all of its bytes were taken: then ``then`` is called,
    and the client is told ``status``, if that is given, in place of the answer.

    :ivar seen: how many PUTs of the path were answered.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        spared: int = 0,
        status: int | None = None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(port)
        self.seen = 0
        self._request = b"PUT %s HTTP/" % path.encode()
        self._spared = spared
        self._status = status
        self._then = then

    def _serve(self, client: socket.socket) -> None:
        put = threading.Event()
        with (
            contextlib.suppress(OSError),
            client,
            self._connect() as server,
        ):
            there = threading.Thread(target=self._to_server, args=(client, server, put))
            there.start()
            self._to_client(server, client, put)
            end(server, client)
            there.join()

    def _to_server(
        self, client: socket.socket, server: socket.socket, put: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while block := client.recv(BLOCK):
                # Clients send a head by itself, and wait for the answer to the request before.
                if block.startswith(self._request):
                    put.set()
                server.sendall(block)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _to_client(
        self, server: socket.socket, client: socket.socket, put: threading.Event
    ) -> None:
        while block := server.recv(BLOCK):
            # 100: not the answer yet
            if put.is_set() and not block.startswith(b"HTTP/1.1 100"):
                put.clear()
                if self._is_its_turn():
                    self._then()
                    if self._status is not None:
                        head = "HTTP/1.1 %d Of the test\r\nContent-Length: 0\r\n" % self._status
                        client.sendall(head.encode() + b"Connection: close\r\n\r\n")
                        return
            client.sendall(block)

    def _is_its_turn(self) -> bool:
        with self._lock:
            self.seen += 1
            return self.seen == self._spared + 1
