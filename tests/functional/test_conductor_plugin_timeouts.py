# SPDX-License-Identifier: Apache-2.0
"""A service that Ironic gives up by itself leaves no instance down, with the plug-in, too."""

from collections.abc import Iterator

import pytest

from tests.functional.marks import needs_timeout
from tests.lab import conductors, disks
from tests.lab.conductors import Backends
from tests.lab.ironic import Ironic
from tests.lab.machines import RECORDED, Machine, recording

pytestmark = needs_timeout
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
