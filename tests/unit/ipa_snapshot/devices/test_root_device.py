# SPDX-License-Identifier: Apache-2.0
"""Our root device rules and those of ironic-python-agent, against one table of cases."""

from typing import Any

import pytest
from ironic_lib import utils as ironic_lib_utils
from ironic_python_agent import errors as agent_errors

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.devices.root_device import Expectation, choose_root_device, refuse_ambiguity
from tests.unit.ipa_snapshot.devices.agent_hardware import agent_with, hardware
from tests.unit.ipa_snapshot.devices.root_device_cases import (
    CASES,
    CRASH,
    FLEET,
    GIB,
    INVALID,
    NONE,
    NVME,
    SDA,
    SDB,
    VDA,
    Case,
    Disk,
    disk,
)

# the libraries' own use of pyparsing
pytestmark = pytest.mark.filterwarnings("ignore::pyparsing.PyparsingDeprecationWarning")

each_case = pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])


def _as_ours(raw: Disk) -> BlockDevice:
    return BlockDevice.of_agent(hardware.BlockDevice(**raw).serialize())


def _chosen_by_us(case: Case) -> str:
    try:
        return choose_root_device([_as_ours(raw) for raw in case.disks], case.hints).device.name
    except errors.DeviceNotFound:
        return NONE
    except errors.InvalidRequest:
        return INVALID


def _chosen_by_agent(case: Case) -> str:
    properties = {} if case.hints is None else {"root_device": case.hints}
    with agent_with(case.disks, {"properties": properties}) as manager:
        try:
            return str(manager.get_os_install_device())
        except agent_errors.DeviceNotFound as exc:
            return INVALID if "failed to validate" in exc.details else NONE
        except Exception:  # noqa: BLE001 - whatever it is, it is not the agent's own
            return CRASH


@each_case
def test_we_choose_what_the_table_says(case: Case) -> None:
    assert _chosen_by_us(case) == case.expected


@each_case
def test_the_agent_chooses_what_the_table_says(case: Case) -> None:
    assert _chosen_by_agent(case) == (case.by_agent or case.expected), case.disagreement


def test_where_the_two_disagree_we_choose_no_disk() -> None:
    for case in CASES:
        if case.disagreement:
            assert case.expected in (NONE, INVALID), case.title


def test_the_reason_is_told_with_the_choice() -> None:
    devices = [_as_ours(raw) for raw in FLEET]
    assert choose_root_device(devices, None).reason == "the smallest with at least 4 GiB"
    assert "hints" in choose_root_device(devices, {"model": "42"}).reason


def test_a_refusal_lists_the_candidates_and_the_hints() -> None:
    with pytest.raises(errors.DeviceNotFound) as caught:
        choose_root_device([_as_ours(SDA), _as_ours(NVME)], {"model": "other"})
    for part in ("/dev/sda: 8589934592 bytes", "/dev/nvme0n1: 42949672960 bytes", "'other'"):
        assert part in str(caught.value)


def test_a_refused_hint_is_named_with_its_value() -> None:
    with pytest.raises(errors.InvalidRequest, match=r"tran\W+7"):
        choose_root_device([_as_ours(NVME)], {"tran": 7})
    with pytest.raises(errors.InvalidRequest, match="unknown root device hints: colour; known are"):
        choose_root_device([_as_ours(NVME)], {"colour": "red"})


# Why our code shows ironic-lib the values one by one, and 'tran' under another name:


@pytest.mark.parametrize(
    ("hint", "values"), [("serial", ["ABC"]), ("serial", ["ABC", "ABCD"]), ("wwn", ["ABC", None])]
)
def test_ironic_lib_itself_finds_no_match_in_a_list(hint: str, values: list[Any]) -> None:
    match = ironic_lib_utils.match_root_device_hints
    assert match([{"name": "/dev/sda", hint: values}], {hint: "abc"}) is None
    assert match([{"name": "/dev/sda", hint: values[0]}], {hint: "abc"})["name"] == "/dev/sda"


def test_ironic_lib_itself_does_not_know_the_hint_tran() -> None:
    with pytest.raises(ValueError, match="tran"):
        ironic_lib_utils.match_root_device_hints(
            [{"name": "/dev/sda", "tran": "sata"}], {"tran": "sata"}
        )


# What both must refuse


SMALL = disk("/dev/sdz", 4 * GIB - 512)


@pytest.mark.parametrize(
    ("disks", "hints", "expectation"),
    [
        ([SDA], None, Expectation()),
        ([SDA], {}, Expectation()),
        ([SDA, SMALL], None, Expectation()),
        ([], None, Expectation()),
        ([SDA, SDB], {"size": 8}, Expectation()),
        ([SDA, SDB], None, Expectation(serial="x")),
        ([SDA, SDB], None, Expectation(wwn="x")),
        ([SDA, SDB], None, Expectation(any_root=True)),
    ],
)
def test_one_candidate_or_any_sign_from_the_operator_is_not_ambiguous(
    disks: list[Disk], hints: dict[str, Any] | None, expectation: Expectation
) -> None:
    refuse_ambiguity([_as_ours(raw) for raw in disks], hints, expectation)


@pytest.mark.parametrize("hints", [None, {}])
def test_several_candidates_without_a_sign_are_refused_and_listed(
    hints: dict[str, Any] | None,
) -> None:
    disks = [_as_ours(raw) for raw in (SDA, SMALL, VDA)]
    with pytest.raises(errors.DeviceNotFound, match=r"^2 disks may be the root device") as caught:
        refuse_ambiguity(disks, hints, Expectation())
    assert "/dev/sda" in str(caught.value) and "/dev/vda" in str(caught.value)
    assert "/dev/sdz" not in str(caught.value)
    assert "any_root" in str(caught.value)


@pytest.mark.parametrize(
    "expectation",
    [
        Expectation(),
        Expectation(any_root=True),
        Expectation(serial="ZR1SHORT"),
        Expectation(serial="zr1short"),
        Expectation(serial=" st8000_dm004_zr1LONG "),
        Expectation(wwn="0x5000C500A1B2C3D4"),
        Expectation(serial="ZR1SHORT", wwn="0x5000c500a1b2c3d4"),
    ],
)
def test_the_expected_disk_is_accepted_by_any_of_its_serials_in_any_case(
    expectation: Expectation,
) -> None:
    expectation.check(_as_ours(SDA))


@pytest.mark.parametrize(
    ("raw", "expectation", "found"),
    [
        (SDA, Expectation(serial="ZR1"), "the serial ZR1SHORT or ST8000_DM004_ZR1LONG"),
        (SDA, Expectation(serial="ZR1SHORT", wwn="0x1"), "the wwn 0x5000c500a1b2c3d4"),
        (SDA, Expectation(serial="x", any_root=True), "the serial ZR1SHORT"),
        (VDA, Expectation(serial="x"), "the serial unknown"),
        (VDA, Expectation(wwn="none"), "the wwn unknown"),
    ],
)
def test_another_disk_is_refused_with_what_it_is(
    raw: Disk, expectation: Expectation, found: str
) -> None:
    with pytest.raises(errors.DeviceNotFound) as caught:
        expectation.check(_as_ours(raw))
    assert raw["name"] in str(caught.value)
    assert found in str(caught.value)
