# SPDX-License-Identifier: Apache-2.0
"""Of a swap space its header is used; what lies behind it in the partition is not its own."""

import struct
from pathlib import Path

import pytest

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import NotUnderstood, View
from ipa_snapshot.devices.file_systems.swap import map_swap

PAGE = 4096


def _swap(path: Path, last_page: int) -> View:
    path.write_bytes(
        (bytes(1024) + struct.pack("<II", 1, last_page)).ljust(PAGE - 10, b"\0") + b"SWAPSPACE2"
    )
    return View(str(path), 100 * PAGE)


@pytest.mark.parametrize("last_page", [1, 59, 99])
def test_a_swap_space_is_no_larger_than_its_header_says(tmp_path: Path, last_page: int) -> None:
    found = map_swap(_swap(tmp_path / "swap", last_page))
    assert found.used == Extents([(0, PAGE)])
    assert found.size == (last_page + 1) * PAGE


@pytest.mark.parametrize("last_page", [100, 2**32 - 1])
def test_a_swap_space_larger_than_its_partition_is_refused(tmp_path: Path, last_page: int) -> None:
    with pytest.raises(NotUnderstood, match="with %d pages" % (last_page + 1)):
        map_swap(_swap(tmp_path / "swap", last_page))
