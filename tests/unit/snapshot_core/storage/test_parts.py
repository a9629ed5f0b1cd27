# SPDX-License-Identifier: Apache-2.0
"""Parts hold exactly the stream's bytes, can be sent again, and are forgotten when dropped."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshot_core import errors
from snapshot_core.storage import parts

PART = 10


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART", PART)
        yield


@given(st.lists(st.binary(min_size=1, max_size=25)), st.booleans())
def test_the_parts_are_the_stream_without_gaps(blocks: list[bytes], known: bool) -> None:
    stream = b"".join(blocks)
    begins, found = [], b""
    for part in parts.split(iter(blocks), len(stream) if known else None):
        begins.append(part.start)
        content = b"".join(part)
        assert part.start == len(found)
        assert len(part) == len(content) == part.end - part.start
        assert len(part) <= PART + (0 if known else 25 - 1)
        found += content
        part.drop()
    assert found == stream
    if known:
        assert begins == list(range(0, len(stream), PART))


@pytest.mark.parametrize("known", [False, True])
def test_a_part_that_broke_off_anywhere_yields_the_same_bytes_again(known: bool) -> None:
    blocks = [b"abc", b"defg", b"hijk", b"lm"]
    stream = b"".join(blocks)
    for at in range(5):
        found = b""
        for part in parts.split(iter(blocks), len(stream) if known else None):
            for _ in zip(range(at), part, strict=False):
                pass
            content = b"".join(part)
            assert content == b"".join(part)
            found += content
            part.drop()
        assert found == stream


class CountedBlock(bytes):
    """Two bytes that count how many of their kind there are, and were at most."""

    alive = most = 0

    def __new__(cls) -> "CountedBlock":
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, b"ab")

    def __del__(self) -> None:
        type(self).alive -= 1


@pytest.mark.parametrize("length", [None, 100])
def test_no_more_than_a_part_is_held(length: int | None) -> None:
    CountedBlock.most = 0
    for part in parts.split((CountedBlock() for _ in range(50)), length):
        for _ in part:
            pass
        part.drop()
        del _
    assert CountedBlock.alive == 0
    assert CountedBlock.most <= PART // 2 + 1


@pytest.mark.parametrize(
    ("length", "message"),
    [(14, "more than the 14 bytes expected"), (30, "ended at offset 15, expected 20"),
     (31, "ended at offset 15, expected 20")],
)  # fmt: skip
def test_a_stream_of_another_length_than_announced_is_told(length: int, message: str) -> None:
    with pytest.raises(errors.WriteFailed, match=message):
        for part in parts.split(iter([b"abcde"] * 3), length):
            b"".join(part)
