# SPDX-License-Identifier: Apache-2.0
"""The plug-in in a real Ironic's conductor: snapshots by the step ``vendor.snapshot``."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from openstack.connection import Connection

from conductor_client import errors
from conductor_client.node import Record
from conductor_client.reasons import why_failed
from tests.functional.commands import finish
from tests.functional.conftest import same_files
from tests.functional.marks import needs_recovery
from tests.lab import conductors, disks
from tests.lab.agent import Agent
from tests.lab.conductors import PROJECT
from tests.lab.glance import Glance
from tests.lab.ironic import DEFAULT_VENV, Ironic
from tests.lab.machines import SECRETS, SERIAL, Storage, changes
from tests.lab.nodes import Node
from tests.lab.releases import RELEASES

# What a node goes through in a service with a step that waits.
WHOLE_SERVICE = [
    ("active", "servicing"),
    ("servicing", "service wait"),
    ("service wait", "servicing"),
    ("servicing", "service wait"),
    ("service wait", "servicing"),
    ("servicing", "active"),
]
WITHOUT_RAMDISK = [*WHOLE_SERVICE[:3], WHOLE_SERVICE[-1]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with Storage(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def image_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glance]:
    """A Glance that tests may kill and start again."""
    with Glance(tmp_path_factory.mktemp("image-service")) as server:
        yield server


@dataclass
class Metrics:
    """A statsd: keeps the names of what is sent to it."""

    port: int
    _socket: socket.socket = field(repr=False)

    def names(self) -> set[str]:
        """Return the names that arrived since the last time."""
        found = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                found.add(self._socket.recv(65536).decode().partition(":")[0])
        return found


@pytest.fixture(scope="module")
def metrics() -> Iterator[Metrics]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        listening.setblocking(False)
        yield Metrics(listening.getsockname()[1], listening)


@pytest.fixture(scope="module")
def ironic(
    tmp_path_factory: pytest.TempPathFactory,
    store: Storage,
    image_service: Glance,
    metrics: Metrics,
) -> Iterator[Ironic]:
    """An Ironic with the plug-in, whose log and database hold no secret in the end."""
    directory = tmp_path_factory.mktemp("ironic")
    config = """\
[DEFAULT]
enabled_vendor_interfaces = snapshot,no-vendor
[snapshot]
storage_url = %s
storage_ca = %s
storage_auth_file = %s
agent_auth_file = %s
min_free = 0
max_concurrent_snapshots = 2
poll_interval = 1
clean_up_interval = 2
[conductor]
# An agent is given half of it to answer.
service_callback_timeout = 40
[metrics]
backend = statsd
[metrics_statsd]
statsd_host = 127.0.0.1
statsd_port = %d
""" % (
        store.url, store.cacert, store.account("conductor"), store.account("machine"),
        metrics.port,
    )  # fmt: skip
    with Ironic(directory / "state", image_service.url, extra_config=config) as server:
        yield server
        held = server.log.read_bytes() + (server.state / "ironic.sqlite").read_bytes()
        assert not [secret for secret in SECRETS.values() if secret.encode() in held]


@pytest.fixture
def make_node(ironic: Ironic) -> Callable[..., Node]:
    """Return a function that enrols a node of the project's, whose conductor takes snapshots."""

    return functools.partial(conductors.enrol, ironic)


@pytest.fixture
def cloud(image_service: Glance) -> Connection:
    return image_service.connection()


def make_image(cloud: Connection, **attributes: Any) -> str:
    made: str = cloud.image.create_image(name="a snapshot", allow_duplicates=True, **attributes).id
    return made


@contextlib.contextmanager
def ramdisk(node: Node, disk: disks.Disk) -> Iterator[Agent]:
    """Run the node's ramdisk, and then see that no log has a secret."""
    with conductors.ramdisk(node, disk) as agent:
        yield agent
        log = agent.log.read_text(errors="replace")
    assert not [secret for secret in SECRETS.values() if secret in log]


@contextlib.contextmanager
def ramdisk_if_booted(node: Node, disk: disks.Disk) -> Iterator[None]:
    """Run the node's ramdisk where Ironic boots it even for a step that needs none."""
    if RELEASES.boots_if_needed:
        yield
    else:
        with ramdisk(node, disk):
            yield


def nothing_is_left(node: Node, store: Storage) -> None:
    """Wait until the node remembers nothing, and the storage has nothing of it."""
    conductors.wait_until_forgotten(node)
    assert store.names_of(node.uuid) == []


def test_a_snapshot_goes_from_the_machine_into_the_image(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, image_service: Glance,
    cloud: Connection, small_disk: disks.Disk, metrics: Metrics, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image, expected_serial=SERIAL)
    with ramdisk(node, small_disk):
        after = node.wait_for("active")
    found = cloud.image.get_image(image)
    assert (found.status, found.disk_format, found.owner) == ("active", "qcow2", PROJECT)
    assert found.visibility == "shared"
    assert same_files(small_disk, image_service.images / image, tmp_path)
    assert (after.power_state, after.last_error, after.is_maintenance) == ("power on", None, False)
    nothing_is_left(node, store)
    assert not (store.document_root / node.uuid).exists()
    assert changes(ironic, node.uuid) == WHOLE_SERVICE
    for text in ("requested", "capturing", "captured", "done"):
        assert any("into image %s: %s" % (image, text) in event for event in node.history())
    names = metrics.names()
    for one in ("requested", "starting", "capturing", "uploading"):
        assert "conductor_client.ironic.ledger.phase.%s" % one in names


def test_the_command_asks_the_conductor_and_waits_for_it(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, image_service: Glance,
    cloud: Connection, small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    command = subprocess.Popen(
        ironic.openstack_command(
            "baremetal", "node", "snapshot", node.uuid, "--image", image, "--wait", "-f", "json"
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **ironic.environment()},
    )  # fmt: skip
    with ramdisk(node, small_disk):
        outcome = finish(command)
    assert outcome.code == 0, outcome.err
    assert (outcome.json["image_ref"], outcome.json["consistency"]) == (image, "clean")
    assert cloud.image.get_image(image).status == "active"
    assert same_files(small_disk, image_service.images / image, tmp_path)
    assert node.record().provision_state == "active"
    nothing_is_left(node, store)


def service_failed(node: Node, timeout_s: float = 90) -> Record:
    """Wait for the failure, see that the instance is back, and return what clients see."""
    node.wait_for("service failed", timeout_s)
    answer = node.cloud.baremetal.get("/nodes/" + node.uuid, microversion="1.87")
    record = Record.parse(answer.json())
    assert (record.power_state, record.maintenance, record.fault) == ("power on", False, None)
    return record


def test_a_failure_in_the_agent_is_told_and_the_instance_is_back(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, cloud: Connection,
    small_disk: disks.Disk,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image, expected_serial="another one")
    with ramdisk(node, small_disk):
        record = service_failed(node)
    error = why_failed(record)
    assert isinstance(error, errors.CommandFailed)
    assert "DeviceNotFound" in str(error)
    assert "another one" in str(error)
    nothing_is_left(node, store)
    assert cloud.image.get_image(image).status == "queued"
    assert changes(ironic, node.uuid)[-1] == ("service wait", "service failed")
    if RELEASES.recovers:
        node.provision("abort")
        node.wait_for("active")
        assert changes(ironic, node.uuid)[-1] == ("service failed", "active")


def test_an_image_of_another_project_is_refused_before_the_agent_hears_of_it(
    make_node: Callable[..., Node], store: Storage, cloud: Connection, small_disk: disks.Disk
) -> None:
    node, image = make_node(owner="another-project"), make_image(cloud)
    conductors.request(node, "snapshot", image)
    with ramdisk(node, small_disk) as agent:
        record = service_failed(node)
        assert "stream_image" not in agent.log.read_text(errors="replace")
    assert "InvalidRequest: the image %s belongs to the project" % image in record.last_error
    assert "another-project" in record.last_error
    nothing_is_left(node, store)


def test_a_format_that_is_a_path_removes_nothing_of_others(
    make_node: Callable[..., Node], store: Storage, cloud: Connection, small_disk: disks.Disk
) -> None:
    node, image = make_node(), make_image(cloud)
    others = store.document_root / "others" / "image.qcow2"
    others.parent.mkdir()
    others.touch()
    conductors.request(node, "snapshot", image, image_format="x/../../others")
    with ramdisk(node, small_disk):
        record = service_failed(node)
    assert "InvalidRequest: the argument image_format is 'x/../../others'" in record.last_error
    nothing_is_left(node, store)
    assert others.exists()
    shutil.rmtree(others.parent)


def delete(node: Node) -> None:
    node.provision("deleted")
    node.wait_for("available")


@pytest.mark.parametrize("end", [
    pytest.param(Node.abort, id="abort"),
    pytest.param(delete, id="deleted", marks=needs_recovery),
])  # fmt: skip
def test_an_end_that_ironic_does_not_tell_stops_the_agent_and_leaves_nothing(
    make_node: Callable[..., Node], store: Storage, cloud: Connection, small_disk: disks.Disk,
    slow_network: None, end: Callable[[Node], None],
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image, writer="dd")
    # The fake power leaves the agent alive, as a BMC does that lies.
    with ramdisk(node, small_disk) as agent:
        conductors.wait_for_phase(node, "capturing")
        end(node)
        nothing_is_left(node, store)
        assert "is not wanted any more" in agent.log.read_text(errors="replace")
    assert cloud.image.get_image(image).status == "queued"


@pytest.mark.parametrize("moment", ["capturing", "uploading"])
def test_a_snapshot_outlives_the_death_of_the_conductor(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, cloud: Connection,
    image_service: Glance, small_disk: disks.Disk, tmp_path: pathlib.Path, moment: str,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image)
    with ramdisk(node, small_disk):
        with conductors.slowed_network():
            conductors.wait_for_phase(node, moment)
            ironic.kill()
            assert conductors.phase_in_database(ironic, node) == moment
            ironic.start_again()
        node.wait_for("active", timeout_s=120)
    assert cloud.image.get_image(image).status == "active"
    assert same_files(small_disk, image_service.images / image, tmp_path)
    nothing_is_left(node, store)


@needs_recovery
def test_a_conductor_that_dies_in_the_midst_brings_the_instance_back_when_it_starts(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, cloud: Connection,
    small_disk: disks.Disk,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image)
    with ramdisk(node, small_disk), conductors.slowed_network():
        conductors.wait_for_phase(node, "capturing")
        ironic.kill()
        # As it is when the step begins: a moment that no test meets.
        conductors.change_in_database(ironic, node, provision_state="servicing")
        ironic.start_again()
        node.wait_until("out of the step", lambda record: not record.service_step)
        failed = service_failed(node)
    assert "can't be resumed" in str(failed.last_error)
    assert "The instance is brought back" in str(failed.last_error)
    nothing_is_left(node, store)
    node.provision("abort")
    node.wait_for("active")


@needs_recovery
def test_a_conductor_that_dies_while_it_sends_the_command_brings_the_instance_back(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, cloud: Connection,
    small_disk: disks.Disk,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image)
    with ramdisk(node, small_disk) as agent, conductors.slowed_network():
        conductors.wait_for_phase(node, "capturing")
        ironic.kill()
        # As it is until the agent's answer has come: a moment that no test meets.
        conductors.change_record(ironic, node, phase="starting", command_id=None)
        ironic.start_again()
        failed = service_failed(node)
        nothing_is_left(node, store)
        # which does not go on
        assert "is not wanted any more" in agent.log.read_text(errors="replace")
    assert "was stopped while it sent the command: take the snapshot again" in failed.last_error
    assert cloud.image.get_image(image).status == "queued"


def test_an_agent_that_is_gone_fails_the_snapshot_and_the_instance_is_back(
    make_node: Callable[..., Node], store: Storage, cloud: Connection, small_disk: disks.Disk,
    slow_network: None,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image, writer="dd")
    with ramdisk(node, small_disk) as agent:
        conductors.wait_for_phase(node, "capturing")
        agent.kill()
        # Five minutes where Ironic has no patience of its own that would be shorter.
        record = service_failed(node, 90 if RELEASES.times_out else 400)
    assert "AgentUnavailable: the agent at %s does not answer" % agent.url in record.last_error
    nothing_is_left(node, store)


def test_a_machine_that_is_reset_during_the_upload_costs_nothing(
    make_node: Callable[..., Node], store: Storage, cloud: Connection, image_service: Glance,
    small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image)
    with ramdisk(node, small_disk) as agent, conductors.slowed_network():
        conductors.wait_for_phase(node, "uploading")
        agent.kill()
        assert conductors.phase_of(node.record()) == "uploading"
    node.wait_for("active", timeout_s=120)
    assert cloud.image.get_image(image).status == "active"
    assert same_files(small_disk, image_service.images / image, tmp_path)
    nothing_is_left(node, store)


def test_a_captured_image_waits_for_glance_and_is_uploaded_without_a_ramdisk(
    ironic: Ironic, make_node: Callable[..., Node], store: Storage, image_service: Glance,
    cloud: Connection, small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    node, image = make_node(), make_image(cloud)
    conductors.request(node, "snapshot", image)
    with ramdisk(node, small_disk):
        conductors.wait_for_phase(node, "capturing")
        image_service.kill()
        record = service_failed(node)
    assert "UploadFailed" in record.last_error
    assert "upload_snapshot" in record.last_error
    assert len(store.names_of(node.uuid)) == 2
    image_service.start_again()
    before = len(changes(ironic, node.uuid))
    conductors.request(node, "upload_snapshot", image)
    with ramdisk_if_booted(node, small_disk):
        node.wait_for("active")
    service = WITHOUT_RAMDISK if RELEASES.boots_if_needed else WHOLE_SERVICE
    assert changes(ironic, node.uuid)[before:] == [
        ("service failed", "servicing"),
        *service[1:],
    ]
    assert same_files(small_disk, image_service.images / image, tmp_path)
    nothing_is_left(node, store)

    conductors.request(node, "upload_snapshot", make_image(cloud))
    with ramdisk_if_booted(node, small_disk):
        record = service_failed(node)
    assert "no captured image of node %s was kept" % node.uuid in record.last_error


def test_as_many_machines_as_configured_are_captured_at_once_and_others_wait(
    make_node: Callable[..., Node], store: Storage, image_service: Glance, cloud: Connection,
    small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    nodes = [make_node() for _ in range(3)]
    images = [make_image(cloud) for _ in nodes]
    for node, image in zip(nodes, images, strict=True):
        # it lasts until the third ramdisk has booted, and longer
        conductors.request(node, "snapshot", image, compression="none")
    with contextlib.ExitStack() as ramdisks:
        with conductors.slowed_network():
            for node in nodes:
                ramdisks.enter_context(ramdisk(node, small_disk))
            for _look in range(5):
                nodes[0].wait_until(
                    "captured with another one while the third waits",
                    lambda _record: (
                        sorted(conductors.phase_of(node.record()) or "" for node in nodes)
                        == ["capturing", "capturing", "requested"]
                    ),
                )
                time.sleep(1)
        for node in nodes:
            node.wait_for("active", timeout_s=120)
    for image in images:
        assert same_files(small_disk, image_service.images / image, tmp_path)
    for node in nodes:
        nothing_is_left(node, store)


# It runs where Ironic is: types, interfaces and drivers as its own factories make them.
INTERFACES = """\
import json, sys
from types import SimpleNamespace
from stevedore import driver, extension
from ironic.common import driver_factory, exception, service
from ironic.drivers import base
service.prepare_command(sys.argv)

def load(kind, name):
    return driver.DriverManager("ironic.hardware." + kind, name, invoke_on_load=True).driver

def is_taken(hardware_type):
    try:
        driver_factory.get_interface(load("types", hardware_type), "vendor", "snapshot")
    except exception.IncompatibleInterface:
        return False
    return True

def answer(call, *arguments):
    try:
        return call(*arguments)
    except exception.IronicException as exc:
        return type(exc).__name__

found = {name: is_taken(name) for name in ("snapshot-ipmi", "snapshot-redfish", "redfish")}
task = SimpleNamespace(node=SimpleNamespace(driver="fake-hardware"))
for name in ("agent", "fake", "no-snapshot"):
    interface = load("interfaces.snapshot", name)
    assert isinstance(interface, base.BaseInterface)
    assert interface.interface_type == "snapshot"
    found[name] = answer(interface.validate, task)
    if name != "agent":
        found[name + " snapshot"] = answer(interface.snapshot, task, "image")
        assert answer(interface.continue_snapshot, task) is None
        assert answer(interface.clean_up, task) is None
print(json.dumps(found))
"""


def test_the_hardware_types_and_the_interface_of_the_specification_are_there(
    ironic: Ironic,
) -> None:
    python = DEFAULT_VENV / "bin/python"
    config = ["--config-file", str(ironic.state / "ironic.conf"), "--log-file", "/dev/null"]
    ran = subprocess.run(
        [python, "-W", "ignore", "-c", INTERFACES, *config],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "snapshot-ipmi": True, "snapshot-redfish": True, "redfish": False,
        "agent": None,
        "fake": None, "fake snapshot": None,
        "no-snapshot": "UnsupportedDriverExtension",
        "no-snapshot snapshot": "UnsupportedDriverExtension",
    }  # fmt: skip
