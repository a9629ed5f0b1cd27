# SPDX-License-Identifier: Apache-2.0
"""What the laboratory's TCP proxies have in common: they listen on 127.0.0.1 in a ``with``."""

import abc
import contextlib
import socket
import threading
from typing import Self

BLOCK = 64 * 1024


class Proxy(abc.ABC):
    """Serves each connection in a thread of its own, for the server at ``target``.

    :ivar port: where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)

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
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._target))

    @abc.abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Serve a connection to its end, and close it."""


def end(*connections: socket.socket) -> None:
    """Shut connections down, which wakes whoever waits for them in another thread."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
