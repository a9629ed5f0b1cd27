# SPDX-License-Identifier: Apache-2.0
"""Bits that are flipped in the metadata of a disk: those of the corpus, and then others at random.

``FUZZ_SECONDS`` makes a campaign of a test, with other numbers each time, that lasts so long. What
it finds that was not seen before goes into the corpus, which lies beside this.
"""

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ipa_snapshot.devices.used_map import UsedMap

_VARIABLE = "FUZZ_SECONDS"
_CORPUS = Path(__file__).parent / "corpus"
_SECONDS = 3.0
# some tools take a second for each
_LEAST = 3

# Numbers, names of features, and the words of LVM's text.
_VARYING = re.compile(
    r"(?<=volume )[^ ;:]+|(?<=unknown )[^;]+|(?<=LVM )[^ ;:]+|(?<=whole: ).*?(?= where LVM's)"
    r"|/[^ ]*/ipa-snapshot-[^ )]*|[0-9a-f-]*[0-9][0-9a-f-]*"
)
_LAST_WORD = re.compile(r"\b(is|its|on|of) [^ ;,]+(?=,|;|$)")

Flips = tuple[tuple[int, int], ...]
"""Where a bit is flipped: the offset of its byte, and its number."""


class Campaign:
    """Flips for one ``kind`` of metadata, in these ``places``: each an offset and a length."""

    def __init__(self, kind: str, places: Sequence[tuple[int, int]]) -> None:
        self._places = places
        self._path = _CORPUS / (kind.replace(" ", "-") + ".json")
        self._is_long = _VARIABLE in os.environ
        self._seconds = float(os.environ.get(_VARIABLE, _SECONDS))
        self._numbers = random.Random(None if self._is_long else 20)
        # What came of flips, and the first ones of which that came.
        self._corpus: dict[str, Flips] = {}
        if self._path.exists():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._corpus = {
                outcome: tuple((at, bit) for at, bit in flips) for outcome, flips in kept.items()
            }

    def __iter__(self) -> Iterator[Flips]:
        deadline, kept = time.monotonic() + self._seconds, list(self._corpus.values())
        yield from kept
        rounds = len(kept)
        while time.monotonic() < deadline or rounds < _LEAST:
            rounds += 1
            yield tuple(self._draw() for _ in range(self._numbers.choice([1, 1, 2, 5, 30])))

    def _draw(self) -> tuple[int, int]:
        start, length = self._numbers.choice(self._places)
        return start + self._numbers.randrange(length), self._numbers.randrange(8)

    def keep(self, outcome: str, flips: Flips) -> None:
        """Keep flips of which something came that was not seen before."""
        if self._is_long and outcome not in self._corpus:
            self._corpus[outcome] = flips
            self._path.parent.mkdir(exist_ok=True)
            rows = ",\n".join(
                "%s: %s" % (json.dumps(outcome), json.dumps(flips))
                for outcome, flips in sorted(self._corpus.items())
            )
            self._path.write_text("{\n%s\n}\n" % rows, encoding="utf-8")


@contextlib.contextmanager
def applied(path: Path, flips: Flips) -> Iterator[None]:
    """Flip these bits of a file, and have them as before when the context ends."""
    with path.open("r+b") as disk:
        before = {at: os.pread(disk.fileno(), 1, at) for at, _bit in flips}
        now = {at: byte[0] for at, byte in before.items()}
        for at, bit in flips:
            now[at] ^= 1 << bit
        for at, value in now.items():
            os.pwrite(disk.fileno(), bytes([value]), at)
        yield
        for at, byte in before.items():
            os.pwrite(disk.fileno(), byte, at)


def flipped(original: bytes, flips: Flips) -> bytes:
    """Return the content with these bits flipped."""
    content = bytearray(original)
    for at, bit in flips:
        content[at] ^= 1 << bit
    return bytes(content)


def outcome(found: UsedMap) -> str:
    """Return in a line what kind of a map was found, without its numbers and names."""
    said = {*found.warnings, *("%s: %s" % (part.fs, part.used_source) for part in found.partitions)}
    return "; ".join(sorted({*map(_without_names, said)}))[:200]


def _without_names(text: str) -> str:
    return _LAST_WORD.sub(r"\1 #", _VARYING.sub("#", text))
