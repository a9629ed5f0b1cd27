# SPDX-License-Identifier: Apache-2.0
"""Cut a stream of bytes into parts that can be sent again; knows nothing of any server."""

from collections import deque
from collections.abc import Iterable, Iterator

from snapshot_core import errors

# What a broken connection costs, and what is held in memory, together with the rest of the
# block that fills it. Smaller ones cost more round trips.
PART = 16 * 1024 * 1024


class Part:
    """The bytes of an object from ``start`` up to ``end``; ``len()`` is their number.

    Its blocks are kept as they come, so that iterating again yields the same bytes again, and
    then goes on where the stream is. :meth:`drop` lets them go.
    """

    def __init__(self, start: int, length: int, blocks: Iterable[bytes]) -> None:
        self.start = start
        self.end = start + length
        self._kept: list[bytes] = []
        self._coming = iter(blocks)

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[bytes]:
        yield from self._kept
        for block in self._coming:
            self._kept.append(block)
            yield block
        if (found := sum(map(len, self._kept))) != len(self):
            # Said here, because the server would wait for the rest.
            raise errors.WriteFailed(
                "the image ended at offset %d, expected %d" % (self.start + found, self.end)
            )

    def drop(self) -> None:
        """Forget the bytes: the server has them."""
        self._kept.clear()


def split(chunks: Iterator[bytes], length: int | None) -> Iterator[Part]:
    """Yield the stream as parts; each must be iterated to its end before the next.

    With a known ``length`` the bytes pass through a part as they come. Without one they are
    gathered before, since a request says its length first.

    :raises: WriteFailed when the stream has more than ``length`` bytes.
    """
    if length is None:
        start = 0
        while blocks := gather(chunks):
            part = Part(start, sum(map(len, blocks)), consume(blocks))
            yield part
            start = part.end
        return
    cutter = _Cutter(chunks)
    for start in range(0, length, PART):
        size = min(PART, length - start)
        yield Part(start, size, cutter.take(size))
    cutter.expect_end(length)


def gather(chunks: Iterator[bytes]) -> deque[bytes]:
    """Return the next blocks: as few as fill a part, or what is left."""
    blocks: deque[bytes] = deque()
    size = 0
    while size < PART and (block := next(chunks, None)) is not None:
        blocks.append(block)
        size += len(block)
    return blocks


def consume(blocks: deque[bytes]) -> Iterator[bytes]:
    """Yield the blocks and keep none of them."""
    while blocks:
        yield blocks.popleft()


class _Cutter:
    """Takes exact numbers of bytes from a stream, and copies only what a cut goes through."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def take(self, size: int) -> Iterator[bytes]:
        while size > 0 and (chunk := self._left or next(self._chunks, b"")):
            chunk, self._left = (chunk, b"") if len(chunk) <= size else _cut(chunk, size)
            size -= len(chunk)
            yield chunk

    def expect_end(self, length: int) -> None:
        if self._left or any(self._chunks):
            raise errors.WriteFailed("the image has more than the %d bytes expected" % length)


def _cut(chunk: bytes, size: int) -> tuple[bytes, bytes]:
    return chunk[:size], chunk[size:]
