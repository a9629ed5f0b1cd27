# SPDX-License-Identifier: Apache-2.0
"""A thread that makes blocks ahead: in order, bounded, and gone afterwards."""

import threading
import time
from collections.abc import Iterator

import pytest

from ipa_snapshot.writers.ahead import made_ahead


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_the_blocks_come_in_their_order() -> None:
    with made_ahead((b"%d" % number for number in range(100)), 4) as made:
        assert list(made) == [b"%d" % number for number in range(100)]
    assert "snapshot-stream" not in _names()


def test_no_more_are_made_than_was_allowed() -> None:
    asked: list[int] = []

    def blocks() -> Iterator[bytes]:
        for number in range(100):
            asked.append(number)
            yield b"x"

    with made_ahead(blocks(), 3) as made:
        next(made)
        time.sleep(0.2)
        assert len(asked) <= 1 + 3 + 1, "one taken, three wait, one cannot be put"
    assert "snapshot-stream" not in _names()


def test_an_error_comes_behind_the_blocks_before_it() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("in the middle")

    with made_ahead(blocks(), 3) as made:
        assert next(made) == b"first"
        with pytest.raises(ValueError, match="in the middle"):
            next(made)


def test_an_error_of_the_sender_ends_the_thread() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x"

    with pytest.raises(KeyboardInterrupt), made_ahead(endless(), 3) as made:
        next(made)
        raise KeyboardInterrupt
    assert "snapshot-stream" not in _names()
