# SPDX-License-Identifier: Apache-2.0
"""The stores of overlays are promised only the memory that there is, also when several are open."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ipa_snapshot.devices import overlay
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import map_disk
from tests.lab import disks

MIB = 1024 * 1024
RESERVE = 512 * MIB


@pytest.mark.parametrize("available", [RESERVE // 2, RESERVE + 100 * MIB - 1])
def test_a_store_that_does_not_fit_is_refused(
    free_memory: Callable[[int], None], available: int
) -> None:
    free_memory(available)
    with (
        pytest.raises(overlay.NotUnderstood, match="no memory for an overlay of 100 MiB"),
        overlay._Stores().reserved(100 * MIB),
    ):
        pytest.fail("it was promised")


def test_a_store_waits_for_the_memory_that_others_have(
    free_memory: Callable[[int], None],
) -> None:
    free_memory(RESERVE + 250 * MIB)
    stores, opened, close = overlay._Stores(), threading.Semaphore(0), threading.Event()

    def fill() -> None:
        with stores.reserved(100 * MIB):
            opened.release()
            close.wait(30)

    threads = [threading.Thread(target=fill) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert opened.acquire(timeout=10) and opened.acquire(timeout=10)
    assert not opened.acquire(timeout=0.3), "three have 300 MiB"
    close.set()
    assert opened.acquire(timeout=10)
    for thread in threads:
        thread.join()


def test_without_memory_for_an_overlay_a_dirty_partition_is_copied_whole(
    tmp_path: Path, free_memory: Callable[[int], None]
) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    disks.run("mkfs.ext4", "-q", disk)
    disks.run("debugfs", "-w", "-R", "feature needs_recovery", disk)
    free_memory(RESERVE + 60 * MIB)
    with open_source(str(disk)) as source:
        found = map_disk(source)
    assert found.extents.total == 64 * MIB
    assert "journal is dirty and was not replayed: there is no memory for" in found.warnings[0]
