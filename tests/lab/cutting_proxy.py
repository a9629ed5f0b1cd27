# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on 127.0.0.1 that cuts connections, as broken networks and proxies do."""

import contextlib
import socket
import threading
from typing import Self

_BLOCK = 64 * 1024


class CuttingProxy:
    """Forwards to ``port``, and cuts as many connections as ``cuts`` has numbers, one by one.

    Each number is how many bytes of a client's, counted from the cut before, are let through.

    :ivar port: where it listens.
    :ivar connections: how many there were.
    """

    def __init__(self, port: int, *cuts: int) -> None:
        self.connections = 0
        self._target = port
        self._cuts = list(cuts)
        self._passed = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)

    @property
    def cuts_left(self) -> int:
        """How many connections are still to be cut."""
        return len(self._cuts)

    def cut(self, connections: int, after: int = 1) -> None:
        """Cut so many connections from now on, each when its client has sent so many bytes."""
        with self._lock:
            self._passed = 0
            self._cuts += [after] * connections

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        # close() alone would leave accept() waiting
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Closed as soon as it is cut: a sender whose peer only stopped reading would wait.
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            back = threading.Thread(target=self._forward, args=(server, client, False), daemon=True)
            back.start()
            self._forward(client, server, True)
            back.join()

    def _forward(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if count and self._is_over(len(block)):
                    break
                sink.sendall(block)
        # Wakes the other direction's thread, too.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_over(self, size: int) -> bool:
        with self._lock:
            self._passed += size
            if not self._cuts or self._passed < self._cuts[0]:
                return False
            self._cuts.pop(0)
            self._passed = 0
            return True
