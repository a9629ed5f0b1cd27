# SPDX-License-Identifier: Apache-2.0
"""Inside the agent its own code names the root device, and what is ambiguous is still refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.devices.root_device import Expectation
from ipa_snapshot.extension.root_device import find_root_device
from tests.unit.ipa_snapshot.devices.agent_hardware import ListedHardwareManager, agent_with
from tests.unit.ipa_snapshot.devices.root_device_cases import (
    FLEET,
    GIB,
    NVME,
    SDA,
    SDB,
    Disk,
    disk,
)

pytestmark = pytest.mark.filterwarnings("ignore::pyparsing.PyparsingDeprecationWarning")


def _find(disks: Sequence[Disk], node: Mapping[str, Any] | None, **expectation: Any) -> BlockDevice:
    with agent_with(disks, node):
        return find_root_device(Expectation(**expectation))


def _node(instance_info: Any = None, **properties: Any) -> dict[str, Any]:
    return {
        "instance_info": {"root_device": instance_info} if instance_info else {},
        "properties": properties,
    }


def test_the_root_device_is_described_with_all_its_serials() -> None:
    found = _find(FLEET, _node(root_device={"model": "<in> perc"}))
    assert (found.name, found.size) == ("/dev/sdb", 20 * GIB)
    assert found.serials == ("6141877", "61418770c1ff4300")
    assert found.wwns == ("0x61418770c1ff4300", "0x61418770c1ff430026d3a5b10d8f2e77")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (_node({"size": 8}), "/dev/sda"),
        (_node(root_device={"size": 20}), "/dev/sdb"),
        (_node({"size": 8}, root_device={"size": 20}), "/dev/sda"),
        (_node({}, root_device={"tran": "nvme"}), "/dev/nvme0n1"),
    ],
)
def test_hints_of_the_instance_come_before_those_of_the_node(
    node: dict[str, Any], expected: str
) -> None:
    assert _find(FLEET, node).name == expected


def test_of_several_candidates_none_is_chosen_by_a_rule_of_thumb() -> None:
    with pytest.raises(errors.DeviceNotFound, match="4 disks may be the root device"):
        _find(FLEET, _node())


def test_without_a_node_too() -> None:
    with pytest.raises(errors.DeviceNotFound, match="2 disks may be the root device"):
        _find([SDA, SDB], None)
    assert _find([SDA], None).name == "/dev/sda"


def test_any_root_takes_the_one_that_a_deployment_would_take() -> None:
    assert _find([SDB, SDA], _node(), any_root=True).name == "/dev/sda"


def test_the_expected_serial_allows_the_smallest_and_confirms_it() -> None:
    assert _find([SDB, SDA], _node(), serial="zr1short").name == "/dev/sda"


@pytest.mark.parametrize(
    "expectation", [{"serial": "6141877"}, {"wwn": "0x0"}, {"serial": "x", "any_root": True}]
)
def test_another_disk_than_the_expected_one_is_refused(expectation: dict[str, Any]) -> None:
    with pytest.raises(errors.DeviceNotFound, match=r"/dev/sda has the (serial|wwn) .*expected"):
        _find([SDA, SDB], _node(root_device={"size": 8}), **expectation)


def test_disks_that_the_deployment_skips_are_no_candidates() -> None:
    node = _node(skip_block_devices=[{"name": "/dev/sda"}, {"name": "/dev/sdb"}])
    assert _find([SDA, SDB, NVME], node).name == "/dev/nvme0n1"


@pytest.mark.parametrize(
    ("disks", "node", "reason"),
    [
        ([], _node(), "No suitable device"),
        ([disk("/dev/sda", GIB)], _node(), "No suitable device"),
        ([SDA], _node({"model": "other"}), "other"),
        ([SDA], _node({"size": "big"}), "failed to validate"),
        ([SDA], _node({"colour": "red"}), "failed to validate"),
    ],
)
def test_what_the_agent_does_not_find_is_not_found_with_its_reason(
    disks: list[Disk], node: dict[str, Any], reason: str
) -> None:
    with pytest.raises(errors.DeviceNotFound, match=reason):
        _find(disks, node)


@pytest.mark.parametrize("hints", [{"model": "=="}, {"size": "<in> 8"}, {"model": "<all-in> x"}])
def test_hints_that_the_agent_stumbles_over_are_an_error_of_ours_too(
    hints: dict[str, Any],
) -> None:
    with pytest.raises(errors.SnapshotError):
        _find([SDA], _node(hints))


def test_a_raid_volume_that_is_the_root_volume_wins_over_hints() -> None:
    with agent_with([SDA, disk("/dev/md0", 8 * GIB)], _node({"name": "/dev/sda"})) as manager:
        manager._raid_root_device_mapping = {"/dev/md0": True}
        assert find_root_device(Expectation()).name == "/dev/md0"


def test_a_root_device_that_is_not_listed_is_refused() -> None:
    class Odd(ListedHardwareManager):
        def get_os_install_device(self, permit_refresh: bool = False) -> str:
            return "/dev/sdz"

    with agent_with([SDA], _node()) as manager:
        manager.__class__ = Odd
        with pytest.raises(errors.DeviceNotFound, match=r"names /dev/sdz .*does not list it"):
            find_root_device(Expectation())
