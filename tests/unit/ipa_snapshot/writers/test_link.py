# SPDX-License-Identifier: Apache-2.0
"""How fast a storage is, is seen by writing to it; nothing of that stays."""

import time
from collections.abc import Iterable

import pytest

from ipa_snapshot import errors
from ipa_snapshot.writers.link import measure_rate
from tests.unit.memory_storage import MemoryStorage


class SlowStorage(MemoryStorage):
    """Takes 20 MiB a second."""

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        super().write(name, chunks, length)
        self.objects["measured"] = b"%d" % (length or 0)
        time.sleep((length or 0) / 20 / 1024 / 1024)


def test_a_slow_link_is_known_by_little() -> None:
    storage = SlowStorage()
    link = measure_rate(storage)
    assert 5e6 < link.rate <= 21e6
    assert link.bytes_sent == 2 << 20
    assert storage.objects == {"measured": b"%d" % (2 << 20)}


def test_a_fast_link_is_measured_with_more() -> None:
    storage = MemoryStorage()
    link = measure_rate(storage)
    assert link.rate > 100e6
    assert link.bytes_sent == 34 << 20
    assert storage.objects == {}


def test_nothing_stays_when_it_fails() -> None:
    class Full(MemoryStorage):
        """Takes something, and fails."""

        def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
            super().write(name, chunks, length)
            raise errors.WriteFailed("full")

    storage = Full()
    with pytest.raises(errors.WriteFailed):
        measure_rate(storage)
    assert storage.objects == {}
