# SPDX-License-Identifier: Apache-2.0
"""How fast a storage is, is seen by writing to it; nothing of that stays."""

from collections.abc import Iterable

import pytest

from ipa_snapshot import errors
from ipa_snapshot.writers import link
from tests.unit.memory_storage import MemoryStorage


class TimedStorage(MemoryStorage):
    """Takes so many bytes a second, by a clock of its own; remembers how many it took."""

    def __init__(self, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._rate = rate
        self._now = 0.0
        self.taken: list[int] = []
        monkeypatch.setattr(link.time, "perf_counter", lambda: self._now)

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        super().write(name, chunks, length)
        self.taken.append(len(self.objects[name]))
        self._now += self.taken[-1] / self._rate


def test_a_slow_link_is_known_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = TimedStorage(99e6, monkeypatch)
    found = link.measure_rate(storage)
    assert found.rate == pytest.approx(99e6)
    assert storage.taken == [2 << 20]
    assert found.bytes_sent == 2 << 20
    assert storage.objects == {}


def test_a_fast_link_is_measured_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = TimedStorage(101e6, monkeypatch)
    found = link.measure_rate(storage)
    assert found.rate == pytest.approx(101e6)
    assert storage.taken == [2 << 20, 32 << 20]
    assert found.bytes_sent == 34 << 20
    assert storage.objects == {}


def test_nothing_stays_when_it_fails() -> None:
    class Full(MemoryStorage):
        """Takes something, and fails."""

        def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
            super().write(name, chunks, length)
            raise errors.WriteFailed("full")

    storage = Full()
    with pytest.raises(errors.WriteFailed):
        link.measure_rate(storage)
    assert storage.objects == {}
