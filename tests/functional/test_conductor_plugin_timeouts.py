# SPDX-License-Identifier: Apache-2.0
"""What Ironic itself ends, by its own patience or by dying, leaves no instance down."""

from collections.abc import Iterator

import pytest

from tests.functional.marks import needs_recovery, needs_timeout
from tests.lab import conductors, disks
from tests.lab.conductors import Backends
from tests.lab.ironic import Ironic
from tests.lab.machines import RECORDED, Machine, dying_midway, recording, wait_until

# A ramdisk that was heard of sends a heartbeat every three seconds at most.
_CONFIG = RECORDED + "[conductor]\nservice_callback_timeout = 15\n"


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with conductors.backends(tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory, backends: Backends) -> Iterator[Ironic]:
    config = backends.config() + _CONFIG
    directory = tmp_path_factory.mktemp("ironic")
    with recording(), Ironic(directory, backends.gate.url, extra_config=config) as server:
        yield server


@pytest.fixture
def machine(
    ironic: Ironic, backends: Backends, small_disk: disks.Disk, request: pytest.FixtureRequest
) -> Machine:
    """A machine whose conductor takes snapshots."""
    name = request.node.name.replace("_", "-")[5:60]
    made = Machine(ironic, backends.storage, small_disk, name, vendor_interface="snapshot")
    # Without Keystone an owner is refused at first, and taken later.
    made.node.cloud.baremetal.update_node(made.node.uuid, owner=conductors.PROJECT)
    return made


@needs_timeout
def test_an_instance_is_back_whose_ramdisk_never_came(machine: Machine) -> None:
    node = machine.node
    conductors.request(node, "snapshot", "11111111-2222-3333-4444-555555555555")
    record = node.wait_for("service failed", timeout_s=120)
    assert "Timeout reached" in record.last_error
    # No step had begun: then Ironic 39 sets no maintenance, and so tears the service down.
    assert not record.is_maintenance
    assert machine.at_home()
    node.abort()
    assert machine.at_home()


@needs_recovery
def test_an_instance_is_back_whose_service_ironic_gave_up_in_the_midst(
    machine: Machine, backends: Backends, small_disk: disks.Disk
) -> None:
    node, ironic = machine.node, machine.ironic
    conductors.request(node, "snapshot", backends.new_image())
    with conductors.ramdisk(node, small_disk), conductors.slowed_network():
        conductors.wait_for_phase(node, "capturing")
        ironic.kill()
        # As its own patience leaves it, if it heard of no ramdisk for so long.
        conductors.change_in_database(
            ironic, node, provision_state="service failed", service_step="{}", maintenance=True,
            fault="service failure", maintenance_reason="Timeout reached", reservation=None,
        )  # fmt: skip
        ironic.start_again()
        wait_until("at home", machine.at_home)
        conductors.wait_until_forgotten(node)
    record = node.record()
    assert (record.provision_state, record.is_maintenance) == ("service failed", False)
    assert "The instance is brought back" in record.last_error
    assert backends.names(node) == []


@needs_recovery
def test_an_instance_is_back_whose_conductor_died_after_the_snapshot(
    machine: Machine, backends: Backends, small_disk: disks.Disk
) -> None:
    node, ironic, image = machine.node, machine.ironic, backends.new_image()
    conductors.request(node, "snapshot", image)
    with dying_midway(ironic, node), conductors.ramdisk(node, small_disk):
        conductors.wait_for_phase(node, "done")
    ironic.start_again()
    wait_until("at home", machine.at_home)
    conductors.wait_until_forgotten(node)
    record = node.record()
    assert (record.provision_state, record.is_maintenance) == ("service failed", False)
    assert backends.status(image) == "active"
    assert backends.names(node) == []


@needs_recovery
def test_an_instance_is_back_whose_conductor_died_after_a_failure(
    machine: Machine, backends: Backends, small_disk: disks.Disk
) -> None:
    node, ironic = machine.node, machine.ironic
    conductors.request(node, "snapshot", backends.new_image(), expected_serial="ANOTHER")
    with dying_midway(ironic, node), conductors.ramdisk(node, small_disk):
        conductors.wait_for_phase(node, "failed")
    ironic.start_again()
    wait_until("at home", machine.at_home)
    failed = node.wait_for("service failed")
    assert "the conductor was stopped while it brought the instance back" in failed.last_error
    assert not failed.is_maintenance
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []
