# SPDX-License-Identifier: Apache-2.0
"""Each of the specification's transitions on a real Ironic, in its words and in Ironic's."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from conductor_client import states
from conductor_client.delivery import CaptureOptions
from conductor_client.ramdisk_step import step
from tests.functional.marks import needs_recovery, needs_timeout
from tests.lab import disks
from tests.lab.ironic import Ironic
from tests.lab.machines import RECORDED, Machine, Storage, recording

STEP = step("image", CaptureOptions())
# So long Ironic waits for a heartbeat where no ramdisk boots, which would have to be quicker.
IMPATIENT = RECORDED + "[conductor]\nservice_callback_timeout = 5\n"


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironic]:
    with recording(), Ironic(tmp_path_factory.mktemp("ironic"), extra_config=RECORDED) as server:
        yield server


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[Storage]:
    with Storage(tmp_path / "storage") as server:
        yield server


@pytest.fixture
def machine(
    ironic: Ironic, storage: Storage, small_disk: disks.Disk, request: pytest.FixtureRequest
) -> Machine:
    return Machine(ironic, storage, small_disk, request.node.name.replace("_", "-")[5:60])


def told(machine: Machine) -> list[tuple[str, str]]:
    """Return the node's changes in the specification's words; each must be one of its own.

    And Ironic's event must be one of those that carry it.
    """
    moves = machine.moves()
    for move in moves:
        if move.source.startswith("servic") or "servicing" in move.change:
            carriers = [one.carriers for one in states.between(*move.change)]
            assert move.event in sum(carriers, ()), move
    return [(states.spoken(move.source), states.spoken(move.target)) for move in moves]


def failing(**arguments: Any) -> dict[str, Any]:
    """Return the step with arguments that make it fail."""
    return {**STEP, "args": {**STEP["args"], **arguments}}


SUCCESS = [
    # the specification's states                 Ironic's
    (("active", "snapshotting"), ("active", "servicing")),
    (("snapshotting", "snapshot wait"), ("servicing", "service wait")),
    (("snapshot wait", "snapshotting"), ("service wait", "servicing")),
    (("snapshotting", "snapshot wait"), ("servicing", "service wait")),
    (("snapshot wait", "snapshotting"), ("service wait", "servicing")),
    (("snapshotting", "active"), ("servicing", "active")),
]


def test_snapshot_wait_resume_and_done(machine: Machine) -> None:
    machine.node.start_service(STEP)
    with machine.ramdisk():
        machine.node.wait_for("active")
    assert told(machine) == [spoken for spoken, _carried in SUCCESS]
    assert machine.changes() == [carried for _spoken, carried in SUCCESS]
    assert machine.at_home()
    # Those that only one thread tells of; the order, and the others, are not sure: see moves().
    assert {("service wait", "servicing", "resume"), ("servicing", "active", "done")} <= {
        (told["previous_provision_state"], told["provision_state"], told["event"])
        for told in machine.notified()
    }


@needs_recovery
def test_fail_while_snapshotting_snapshot_again_and_deleted_while_waiting(
    machine: Machine,
) -> None:
    machine.node.start_service(failing(no_such_argument=1))
    with machine.ramdisk():
        machine.node.wait_for("service failed")
    # Ironic has noticed it between two steps, which is not in a step: without maintenance.
    machine.node.start_service(STEP)
    machine.node.wait_for("service wait")
    machine.node.provision("deleted")
    machine.node.wait_for("available")
    assert told(machine)[2:7] == [
        ("snapshot wait", "snapshotting"),
        ("snapshotting", "snapshot failed"),
        ("snapshot failed", "snapshotting"),
        ("snapshotting", "snapshot wait"),
        ("snapshot wait", "deleting"),
    ]
    assert machine.changes()[2:7] == [
        ("service wait", "servicing"),
        ("servicing", "service failed"),
        ("service failed", "servicing"),
        ("servicing", "service wait"),
        ("service wait", "deleting"),
    ]


@needs_recovery
def test_fail_while_waiting_and_deleted_after_a_failure(machine: Machine) -> None:
    machine.node.start_service(failing(expected_serial="OTHER"))
    with machine.ramdisk():
        machine.node.wait_for("service failed")
    assert any("DeviceNotFound" in event for event in machine.node.history())
    machine.node.provision("deleted")
    machine.node.wait_for("available")
    assert told(machine)[4:6] == [
        ("snapshot wait", "snapshot failed"),
        ("snapshot failed", "deleting"),
    ]
    assert machine.changes()[4:6] == [
        ("service wait", "service failed"),
        ("service failed", "deleting"),
    ]


@needs_recovery
@needs_timeout
def test_a_timeout_while_waiting_is_a_failure(
    storage: Storage, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with recording(), Ironic(tmp_path / "ironic", extra_config=IMPATIENT) as ironic:
        machine = Machine(ironic, storage, small_disk, "forsaken")
        machine.node.start_service(STEP)
        machine.node.wait_for("service failed", timeout_s=90)
        assert any("Timeout reached" in event for event in machine.node.history())
        assert told(machine)[2:] == [("snapshot wait", "snapshot failed")]
        assert machine.changes()[2:] == [("service wait", "service failed")]
        machine.node.provision("abort")
        machine.node.wait_for("active")
        assert told(machine)[-1] == ("snapshot failed", "active")
        assert machine.at_home()


@needs_recovery
def test_abort_while_waiting_passes_failed_and_is_active(machine: Machine) -> None:
    machine.node.start_service(STEP)
    machine.node.wait_for("service wait")
    machine.node.abort()
    # Ironic 39 writes no history of it.
    assert "aborted" in machine.node.record().last_error
    assert told(machine)[2:] == [
        ("snapshot wait", "snapshot failed"),
        ("snapshot failed", "active"),
    ]
    assert machine.changes()[2:] == [
        ("service wait", "service failed"),
        ("service failed", "active"),
    ]
    assert machine.at_home()


@needs_recovery
def test_abort_after_a_failure_is_active(machine: Machine) -> None:
    machine.node.start_service(failing(expected_serial="OTHER"))
    with machine.ramdisk():
        machine.node.wait_for("service failed")
    assert not machine.at_home()
    machine.node.provision("abort")
    machine.node.wait_for("active")
    assert told(machine)[-1] == ("snapshot failed", "active")
    assert machine.changes()[-1] == ("service failed", "active")
    assert machine.at_home()
