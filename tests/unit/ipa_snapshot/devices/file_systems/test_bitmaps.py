# SPDX-License-Identifier: Apache-2.0
"""The zeros of a bitmap are found, in whatever pieces it comes."""

import random

import pytest

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import bitmaps
from ipa_snapshot.devices.file_systems.base import NotUnderstood


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_zeros_are_what_looking_at_each_bit_finds(piece: int) -> None:
    numbers = random.Random(3)
    bitmap = b"".join(numbers.choice([b"\0", b"\xff", numbers.randbytes(1)]) for _ in range(300))
    pieces = [bitmap[at : at + piece] for at in range(0, len(bitmap), piece)]
    for bits in (0, 1, 9, 2397, 2400):
        slowly = Extents((bit, 1) for bit in range(bits) if not bitmap[bit // 8] >> bit % 8 & 1)
        assert Extents(bitmaps.zeros(pieces, bits)) == slowly


def test_a_bitmap_that_is_too_short_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="16 bits for 17"):
        list(bitmaps.zeros([b"\xff", b"\0"], 17))


def test_what_follows_a_bitmap_is_not_read() -> None:
    pieces = iter([b"\0", b"\0", b"behind"])
    assert list(bitmaps.zeros(pieces, 16)) == [(0, 8), (8, 8)]
    assert next(pieces) == b"behind"


def test_free_space_in_more_pieces_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitmaps, "_MOST_RANGES", 100)
    with pytest.raises(NotUnderstood, match="more than 100 pieces"):
        list(bitmaps.zeros([b"\x55" * 30], 240))


def test_a_bitmap_of_highest_bits_first_is_turned() -> None:
    assert bitmaps.lowest_first(b"\x80\x01\xf0") == b"\x01\x80\x0f"
