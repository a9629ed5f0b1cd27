# SPDX-License-Identifier: Apache-2.0
"""Bitmaps of what is in use, as file systems keep them: their zeros, as ranges."""

import re
from collections.abc import Iterable, Iterator

from ipa_snapshot.devices.file_systems.base import NotUnderstood

# A disk that frees every second block has a free block a range, and each takes time to read.
_MOST_RANGES = 4_000_000
_WITH_ZEROS = re.compile(rb"\x00+|[^\x00\xff]")
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _zeros(byte: int) -> list[tuple[int, int]]:
    bits = f"{byte:08b}"[::-1]
    return [(found.start(), len(found[0])) for found in re.finditer("0+", bits)]


_ZEROS = [_zeros(byte) for byte in range(256)]


def lowest_first(highest_first: bytes) -> bytes:
    """Turn a bitmap whose bytes begin with their highest bit into one of lowest bits."""
    return highest_first.translate(_REVERSED)


def zeros(pieces: Iterable[bytes], bits: int) -> Iterator[tuple[int, int]]:
    """Yield ``(first, length)`` of the zeros among the ``bits`` of a bitmap, lowest first.

    A range may come in several parts, one behind the other.

    :raises: NotUnderstood if the bitmap is shorter, or in more ranges than a disk in use has.
    """
    position = ranges = 0
    for piece in pieces:
        for found in _WITH_ZEROS.finditer(piece):
            at = position + 8 * found.start()
            whole = [(0, 8 * len(found[0]))] if found[0][0] == 0 else _ZEROS[found[0][0]]
            for first, length in whole:
                yield at + first, min(length, max(0, bits - at - first))
            ranges += len(whole)
            if ranges > _MOST_RANGES:
                raise NotUnderstood("its free space is in more than %d pieces" % _MOST_RANGES)
        position += 8 * len(piece)
        if position >= bits:
            return
    raise NotUnderstood("a bitmap of %d bits for %d" % (position, bits))
