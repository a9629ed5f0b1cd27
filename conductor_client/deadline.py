# SPDX-License-Identifier: Apache-2.0
"""HTTP exchanges that are over in time, however slowly the other side sends.

requests limits each single wait: whoever sends a byte before each end of that holds its client
for ever, in the headers, too.
"""

import contextlib
import socket
import threading
from typing import Self

import requests

from snapshot_core.session import mix_into_connections

_current = threading.local()


class Deadline:
    """Cuts the connections that this thread opens in the ``with``, once its time is over.

    It takes sessions that :func:`obey_deadlines` knows, and connections that were not open before.

    :ivar is_over: then an answer may be cut off, although it looks whole.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        _current.deadline = self
        self._timer.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        _current.deadline = None
        self._timer.cancel()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()

    def watch(self, connection: socket.socket) -> None:
        """Cut this connection, too."""
        with self._lock:
            # Our own descriptor of it: TLS takes the socket over, and closed it may be another's.
            self._sockets.append(connection.dup())
            if self.is_over:
                self._cut()

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            self._cut()

    def _cut(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def obey_deadlines(session: requests.Session) -> None:
    """Let the requests of the ``session`` end with the :class:`Deadline` that they are in."""
    mix_into_connections(session, _Watched)


class _Watched:
    def _new_conn(self) -> socket.socket:
        connection: socket.socket = super()._new_conn()  # type: ignore[misc]
        if deadline := getattr(_current, "deadline", None):
            deadline.watch(connection)
        return connection
