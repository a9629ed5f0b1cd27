# SPDX-License-Identifier: Apache-2.0
"""A block device as it comes from the agent, and as it goes into a result."""

import pytest

from ipa_snapshot.devices.block_device import BlockDevice, distinct


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, ()),
        ("", ()),
        ("A", ("A",)),
        (" A ", ("A",)),
        ([], ()),
        ([None, None], ()),
        (["A", None, "B", "A", ""], ("A", "B")),
        (("B", "A"), ("B", "A")),
    ],
)
def test_texts_are_told_once_each_and_in_order(values: object, expected: tuple[str, ...]) -> None:
    assert distinct(values) == expected


def test_what_the_agent_does_not_know_stays_unknown() -> None:
    assert BlockDevice.of_agent({"name": "/dev/sda", "size": None}) == BlockDevice("/dev/sda", 0)


@pytest.mark.parametrize(("raw", "expected"), [(None, 512), (512, 512), ("4096", 4096)])
def test_the_sector_size_is_a_number(raw: object, expected: int) -> None:
    device = BlockDevice.of_agent({"name": "/dev/sda", "size": 1, "logical_sectors": raw})
    assert device.logical_sector_size == expected


def test_a_result_tells_the_first_serial_and_wwn() -> None:
    device = BlockDevice("/dev/sda", 512, serials=("A", "B"), wwns=("1", "2"))
    assert device.to_wire() == {
        "name": "/dev/sda", "serial": "A", "wwn": "1", "size": 512, "logical_sector_size": 512,
    }  # fmt: skip
    bare = BlockDevice("/dev/sda", 512).to_wire()
    assert (bare["serial"], bare["wwn"]) == (None, None)
