# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy before Glance that sees uploads, and counts, holds, refuses or damages them."""

import contextlib
import email.message
import email.parser
import re
import socket
import threading

from tests.lab.proxy import BLOCK, Proxy, end

_HEAD_END = b"\r\n\r\n"
_UPLOAD = re.compile(rb"PUT /v2/images/([0-9a-f-]{36})/file ")


class Upload:
    """A request that sends an image's data.

    :ivar image: the image's UUID.
    :ivar headers: those of the request.
    :ivar under_way: whether Glance has not begun to answer, and the client is still there.
    """

    def __init__(self, image: str, headers: email.message.Message) -> None:
        self.image = image
        self.headers = headers
        self.under_way = True
        self._free = threading.Event()

    def let_through(self) -> None:
        """Hand it on to Glance, if it was held back."""
        self._free.set()

    def wait(self) -> None:
        """Return when it may be handed on."""
        self._free.wait()


class UploadGate(Proxy):
    """Forwards to the Glance that listens on ``port`` while the context lasts.

    Glance closes a connection after its answer, so that each has one request.

    :ivar url: where it listens.
    :ivar refusing: close the connections of uploads without an answer.
    :ivar holding: hold back the uploads that begin from now on, each until it is let through.
    :ivar flipping: flip a bit of the data of the uploads that begin from now on.
    :ivar uploads: those that were not refused, the oldest first.
    :ivar most_at_once: how many of them were under way at the same time, at most.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.refusing = False
        self.holding = False
        self.flipping = False
        self.uploads: list[Upload] = []
        self.most_at_once = 0
        self.url = "http://127.0.0.1:%d" % self.port

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.open()

    def open(self) -> None:
        """Let everything through as it is, from now on and what is held back."""
        self.refusing = self.holding = self.flipping = False
        for upload in self.uploads:
            upload.let_through()

    def forget(self) -> None:
        """Let everything through, and count from the beginning."""
        self.open()
        with self._lock:
            self.uploads, self.most_at_once = [], 0

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            block = client.recv(BLOCK)
            found = _UPLOAD.match(block)
            if not block or (found and self.refusing):
                return
            if found:
                block = _whole_head(block, client)
            upload = self._begin(found[1].decode(), _headers(block)) if found else None
            if upload is not None:
                upload.wait()
            with self._connect() as server:
                server.sendall(block)
                if upload is not None and self.flipping:
                    server.sendall(_flipped(client.recv(BLOCK)))
                back = threading.Thread(target=self._answer, args=(server, client, upload))
                back.start()
                _forward(client, server)
                back.join()

    def _begin(self, image: str, headers: email.message.Message) -> Upload:
        upload = Upload(image, headers)
        if not self.holding:
            upload.let_through()
        with self._lock:
            self.uploads.append(upload)
            under_way = sum(one.under_way for one in self.uploads)
            self.most_at_once = max(self.most_at_once, under_way)
        return upload

    def _answer(self, server: socket.socket, client: socket.socket, upload: Upload | None) -> None:
        with contextlib.suppress(OSError):
            answer = server.recv(BLOCK)
            if upload is not None:
                # Before the client hears of it, and may begin another one.
                with self._lock:
                    upload.under_way = False
            client.sendall(answer)
        _forward(server, client)


def _whole_head(block: bytes, client: socket.socket) -> bytes:
    while _HEAD_END not in block and (more := client.recv(BLOCK)):
        block += more
    return block


def _headers(block: bytes) -> email.message.Message:
    head = block.partition(_HEAD_END)[0].decode("latin-1")
    return email.parser.HeaderParser().parsestr(head.partition("\r\n")[2])


def _flipped(block: bytes) -> bytes:
    # Its last byte, because a chunk's length may stand at its beginning.
    return block[:-1] + bytes(byte ^ 1 for byte in block[-1:])


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(BLOCK):
            sink.sendall(block)
    end(source, sink)
