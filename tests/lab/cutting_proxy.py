# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on 127.0.0.1 that cuts connections, as broken networks and proxies do."""

import contextlib
import socket
import threading

from tests.lab.proxy import BLOCK, Proxy, end


class CuttingProxy(Proxy):
    """Forwards to ``port``, and cuts as many connections as ``cuts`` has numbers, one by one.

    Each number is how many bytes of a client's, counted from the cut before, are let through.

    :ivar connections: how many there were.
    """

    def __init__(self, port: int, *cuts: int) -> None:
        super().__init__(port)
        self.connections = 0
        self._cuts = list(cuts)
        self._passed = 0

    @property
    def cuts_left(self) -> int:
        """How many connections are still to be cut."""
        return len(self._cuts)

    def cut(self, connections: int, after: int = 1) -> None:
        """Cut so many connections from now on, each when its client has sent so many bytes."""
        with self._lock:
            self._passed = 0
            self._cuts += [after] * connections

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        # Closed as soon as it is cut: a sender whose peer only stopped reading would wait.
        with (
            client,
            contextlib.suppress(OSError),
            self._connect() as server,
        ):
            back = threading.Thread(target=self._forward, args=(server, client, False), daemon=True)
            back.start()
            self._forward(client, server, True)
            back.join()

    def _forward(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK):
                if count and self._is_over(len(block)):
                    break
                sink.sendall(block)
        end(source, sink)

    def _is_over(self, size: int) -> bool:
        with self._lock:
            self._passed += size
            if not self._cuts or self._passed < self._cuts[0]:
                return False
            self._cuts.pop(0)
            self._passed = 0
            return True
