# SPDX-License-Identifier: Apache-2.0
"""A hostile HTTP server on 127.0.0.1: it answers what no honest one would, and without end."""

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Self

# What it says to a method and a path; it is sent until the client has enough.
Say = Callable[[str, str], Iterable[bytes]]
_BLOCK = bytes(64 * 1024)


class HostileServer:
    """Answers each request as ``say`` tells, in the order of its bytes, while the ``with`` lasts.

    ``asked`` are the requests' heads; ``most_sent`` is the longest answer that a client took, or
    that the system's buffers did, in bytes.
    """

    def __init__(self, say: Say) -> None:
        self.asked: list[str] = []
        self.most_sent = 0
        self._say = say
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file, contextlib.suppress(OSError):
            head = b"".join(iter(file.readline, b"\r\n")).decode("latin-1")
            self.asked.append(head)
            _skip_body(file, head)
            method, path, _version = head.partition("\r\n")[0].split(" ")
            sent = 0
            for block in self._say(method, path):
                connection.sendall(block)
                sent += len(block)
                self.most_sent = max(self.most_sent, sent)


def _skip_body(file: BinaryIO, head: str) -> None:
    if "transfer-encoding: chunked" in head.lower():
        while size := int(file.readline(), 16):
            file.read(size + 2)
        file.readline()
    elif found := re.search(r"(?im)^content-length: ([0-9]+)", head):
        file.read(int(found[1]))


def answer(status: int, *headers: str, body: Iterable[bytes] = ()) -> Iterator[bytes]:
    """Yield an answer with these headers."""
    lines = ["HTTP/1.1 %d Fine" % status, "Connection: close", *headers, "", ""]
    yield "\r\n".join(lines).encode()
    yield from body


def endless(block: bytes = _BLOCK) -> Iterator[bytes]:
    """Yield the same for ever."""
    return itertools.repeat(block)


def endless_chunks() -> Iterator[bytes]:
    """Yield chunks of the transfer encoding, with no last one."""
    return endless(b"%x\r\n%s\r\n" % (len(_BLOCK), _BLOCK))
