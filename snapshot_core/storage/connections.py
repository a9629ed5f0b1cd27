# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that wait for a slow server, and know whether it can have all it was sent."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import requests

from snapshot_core.session import mix_into_connections

# How long a server may take nothing of what it is sent: as long as its answer may take.
SENDING_S = 300.0
_ANY = object()


class AnsweredEarly(Exception):
    """The server said that all is well before it had all of the request."""

    def __init__(self, status: int) -> None:
        super().__init__("answered %d before it had all that it was sent" % status)


class AnotherConnection(Exception):
    """The request would have gone over another connection than it was to; nothing was sent."""


def guard_sending(session: requests.Session) -> None:
    """Let the requests of the ``session`` wait for :data:`SENDING_S` when they send.

    urllib3 2.8 sends with the time-out of connecting: a server that was busy with its disks for
    15 s broke an upload off. And it takes an answer that comes while a body is being sent for an
    answer to all of it: that raises AnsweredEarly, unless it is a refusal.
    """
    mix_into_connections(session, _Guarded)


def last_used() -> object:
    """Return what names the connection over which this thread had its last answer."""
    return _this_thread.last


@contextlib.contextmanager
def only_over(connection: object) -> Iterator[None]:
    """Within this, the thread's requests raise AnotherConnection instead of using another one.

    Whoever answers a request has read the one before it on the same connection to its end. Of a
    connection that was closed after an answer nobody knows that: its last bytes may have been in
    the system's buffers.
    """
    _this_thread.only = connection
    try:
        yield
    finally:
        _this_thread.only = _ANY


class _ThisThread(threading.local):
    last: object = None
    only: object = _ANY


_this_thread = _ThisThread()


class _Guarded:
    sock: Any
    _opened: object = None  # another one each time that it is opened
    _was_sent = True

    def connect(self) -> None:
        if _this_thread.only is not _ANY:
            raise AnotherConnection
        super().connect()  # type: ignore[misc]
        self._opened = object()
        self.sock.settimeout(SENDING_S)

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if _this_thread.only not in (_ANY, self._opened):
            raise AnotherConnection
        if self.sock is not None:  # which was used before
            self.sock.settimeout(SENDING_S)
        super().endheaders(*args, **kwargs)  # type: ignore[misc]

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._was_sent = False
        super().request(*args, **kwargs)  # type: ignore[misc]
        self._was_sent = True

    def request_chunked(self, *args: Any, **kwargs: Any) -> None:  # urllib3 1.26
        self._was_sent = False
        super().request_chunked(*args, **kwargs)  # type: ignore[misc]
        self._was_sent = True

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().getresponse(*args, **kwargs)  # type: ignore[misc]
        # urllib3 swallows EPIPE and ECONNRESET of sending, for the sake of refusals.
        if not self._was_sent and 200 <= answer.status < 300:
            raise AnsweredEarly(answer.status)
        _this_thread.last = self._opened
        return answer
