# SPDX-License-Identifier: Apache-2.0
"""Snapshots by the specification's own states and verb, on an Ironic that was changed for them."""

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from requests import Response

from conductor_client import states
from tests.functional.commands import finish
from tests.functional.conftest import same_files
from tests.lab import cluster, conductors, disks, machines, nodes
from tests.lab.cluster import Cluster
from tests.lab.conductors import Backends
from tests.lab.ironic import DEFAULT_VENV, SNAPSHOT_VENV, Ironic
from tests.lab.machines import RECORDED, Machine, dying_midway, recording, wait_until
from tests.lab.nodes import Node

VERSION, VERSION_BEFORE = "1.116", "1.115"
CONFIG = (
    RECORDED
    + """\
enabled_snapshot_interfaces = agent,fake,no-snapshot
default_snapshot_interface = agent
[conductor]
# An agent is given half of it to answer.
snapshot_callback_timeout = 40
"""
)
WAITING = [("active", "snapshotting"), ("snapshotting", "snapshot wait")]
SUCCESS = [
    *WAITING,
    ("snapshot wait", "snapshotting"),
    ("snapshotting", "snapshot wait"),
    ("snapshot wait", "snapshotting"),
    ("snapshotting", "active"),
]


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with conductors.backends(tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory, backends: Backends) -> Iterator[Ironic]:
    where = tmp_path_factory.mktemp("ironic")
    config = backends.config() + CONFIG
    with (
        recording(),
        Ironic(where, backends.gate.url, extra_config=config, venv=SNAPSHOT_VENV) as server,
    ):
        yield server


@pytest.fixture
def node(ironic: Ironic) -> Node:
    return conductors.enrol(ironic)


def ask(node: Node, method: str, path: str, body: Any = None, version: str = VERSION) -> Response:
    """Send a request about the node, and return whatever the answer is."""
    answer: Response = node.cloud.baremetal.request(
        "/nodes/%s%s" % (node.uuid, path), method, json=body, microversion=version, raise_exc=False
    )
    return answer


def snapshot(node: Node, image: object, version: str = VERSION, **others: Any) -> Response:
    """Ask for a snapshot by the verb."""
    body = {"target": "snapshot", "image_ref": image, **others}
    return ask(node, "PUT", "/states/provision", body, version)


def choose_interface(node: Node, name: str) -> None:
    """Give an active node another snapshot interface."""
    node.cloud.baremetal.set_node_maintenance(node.uuid)
    change = [{"op": "replace", "path": "/snapshot_interface", "value": name}]
    assert ask(node, "PATCH", "", change).status_code == 200
    node.cloud.baremetal.unset_node_maintenance(node.uuid)


def changes(ironic: Ironic, node: Node) -> list[tuple[str, str]]:
    """Return the changes of the node's provision state, from ``active`` on.

    Those to and from the specification's states must be its transitions.
    """
    found = machines.changes(ironic, node.uuid)
    known = {(one.source, one.target) for one in states.TRANSITIONS}
    assert {change for change in found if "snapshot" in "".join(change)} <= known
    return found


def test_a_snapshot_goes_through_the_states_of_the_specification(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    image = backends.new_image()
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        after = node.wait_for("active", timeout_s=120)
    assert backends.status(image) == "active"
    assert same_files(small_disk, backends.glance.images / image, tmp_path)
    assert changes(ironic, node) == SUCCESS
    assert (after.power_state, after.last_error, after.is_maintenance) == ("power on", None, False)
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []
    internal = node.record().driver_internal_info
    assert not [key for key in internal if key.startswith(("snapshot", "agent_secret"))]


def test_the_command_uses_the_verb(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    image = backends.new_image()
    command = subprocess.Popen(
        ironic.openstack_command(
            "baremetal", "node", "snapshot", node.uuid, "--image", image, "--wait", "-f", "json"
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **ironic.environment()},
    )  # fmt: skip
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        outcome = finish(command)
    assert outcome.code == 0, outcome.err
    told = (outcome.json["image_ref"], outcome.json["state"], outcome.json["consistency"])
    assert told == (image, "active", "clean")
    assert same_files(small_disk, backends.glance.images / image, tmp_path)
    assert changes(ironic, node) == SUCCESS


def test_the_api_knows_the_verb_from_its_version_on(node: Node, backends: Backends) -> None:
    image = backends.new_image()
    assert snapshot(node, image, VERSION_BEFORE).status_code == 406
    for missing in (None, "", " "):
        answer = snapshot(node, missing)
        assert answer.status_code == 400
        assert "image_ref" in answer.text
    answer = ask(node, "PUT", "/states/provision", {"target": "rebuild", "image_ref": image})
    assert answer.status_code == 400
    assert "only valid" in answer.text
    assert node.record().provision_state == "active"
    # An image that is not there, or takes no data, is refused before the node is touched.
    answer = snapshot(node, "https://storage/image")
    assert answer.status_code == 400
    assert "not an image's UUID" in answer.text
    answer = snapshot(node, node.uuid)
    assert answer.status_code == 400
    assert "create it first" in answer.text
    node.cloud.baremetal.set_node_maintenance(node.uuid)
    assert "maintenance" in snapshot(node, image).text
    node.cloud.baremetal.unset_node_maintenance(node.uuid)
    assert node.record().provision_state == "active"
    assert snapshot(node, image).status_code == 202
    node.wait_for("snapshot wait")
    assert snapshot(node, image).status_code == 400
    node.provision("abort")
    node.wait_for("snapshot failed")


def test_the_interface_is_a_field_of_the_node_and_of_the_driver(node: Node) -> None:
    assert ask(node, "GET", "").json()["snapshot_interface"] == "agent"
    assert "snapshot_interface" not in ask(node, "GET", "", version=VERSION_BEFORE).json()
    change = [{"op": "replace", "path": "/snapshot_interface", "value": "fake"}]
    assert ask(node, "PATCH", "", change, VERSION_BEFORE).status_code == 406
    choose_interface(node, "fake")
    assert ask(node, "GET", "").json()["snapshot_interface"] == "fake"
    validation = ask(node, "GET", "/validate").json()
    assert validation["snapshot"]["result"] is True

    def driver(version: str) -> dict[str, Any]:
        found: dict[str, Any] = node.cloud.baremetal.get(
            "/drivers/fake-hardware", microversion=version
        ).json()
        return found

    assert driver(VERSION)["default_snapshot_interface"] == "agent"
    enabled = driver(VERSION)["enabled_snapshot_interfaces"]
    assert sorted(enabled) == ["agent", "fake", "no-snapshot"]
    assert not [name for name in driver(VERSION_BEFORE) if "snapshot" in name]


def test_no_snapshot_refuses_and_fake_is_done_with_the_first_heartbeat(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk
) -> None:
    image = backends.new_image()
    choose_interface(node, "no-snapshot")
    answer = snapshot(node, image)
    assert answer.status_code == 400
    assert "does not support snapshot" in answer.text
    choose_interface(node, "fake")
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        node.wait_for("active")
    assert changes(ironic, node) == [*WAITING, ("snapshot wait", "snapshotting"), SUCCESS[-1]]
    assert conductors.powers(ironic, node)[-3:] == ["power on", "power off", "power on"]


def test_a_failure_is_told_the_instance_is_back_and_the_snapshot_can_be_taken_again(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk
) -> None:
    image = backends.new_image()
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait") as agent:
        with conductors.slowed_network():
            conductors.wait_for_phase(node, "capturing")
            agent.kill()
        failed = node.wait_for("snapshot failed", timeout_s=120)
    assert "AgentUnavailable" in failed.last_error
    assert (failed.power_state, failed.is_maintenance) == ("power on", False)
    assert backends.status(image) == "queued"
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        node.wait_for("active", timeout_s=120)
    assert backends.status(image) == "active"
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []


def test_an_abort_fails_it_and_another_one_is_the_way_out(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk, slow_network: None
) -> None:
    image = backends.new_image()
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait") as agent:
        conductors.wait_for_phase(node, "capturing")
        node.provision("abort")
        failed = node.wait_for("snapshot failed")
        conductors.wait_until_forgotten(node)
        assert "is not wanted any more" in agent.log.read_text(errors="replace")
    assert "aborted" in failed.last_error
    assert failed.power_state == "power on"
    before = conductors.powers(ironic, node)
    node.provision("abort")
    node.wait_for("active")
    assert conductors.powers(ironic, node) == before, "the instance was back already"
    assert changes(ironic, node)[-2:] == [
        ("snapshot wait", "snapshot failed"), ("snapshot failed", "active"),
    ]  # fmt: skip
    assert backends.names(node) == []
    assert backends.status(image) == "queued"


def test_a_ramdisk_that_is_not_heard_of_fails_it(
    ironic: Ironic, node: Node, backends: Backends
) -> None:
    assert snapshot(node, backends.new_image()).status_code == 202
    failed = node.wait_for("snapshot failed", timeout_s=120)
    assert "Timeout reached" in failed.last_error
    assert changes(ironic, node) == [*WAITING, ("snapshot wait", "snapshot failed")]
    assert (failed.power_state, failed.is_maintenance) == ("power on", False)


@pytest.mark.parametrize("state", ["snapshot wait", "snapshot failed"])
def test_an_instance_can_be_deleted(
    ironic: Ironic, node: Node, backends: Backends, state: str
) -> None:
    assert snapshot(node, backends.new_image()).status_code == 202
    node.wait_for("snapshot wait")
    if state == "snapshot failed":
        node.provision("abort")
        node.wait_for(state)
    node.provision("deleted")
    gone = node.wait_for("available")
    assert (state, "deleting") in changes(ironic, node)
    assert not [key for key in gone.driver_internal_info if key.startswith("snapshot")]


def test_an_abort_ends_an_upload_that_is_under_way(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk
) -> None:
    image, gate = backends.new_image(), backends.gate
    gate.forget()
    gate.holding = True
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        wait_until("an upload under way", lambda: gate.uploads)
        node.provision("abort")
        node.wait_for("snapshot failed")
    conductors.wait_until_forgotten(node)
    gate.open()
    wait_until("over", lambda: not gate.uploads[0].under_way)
    wait_until("waiting for data", lambda: backends.status(image) == "queued")


@pytest.mark.parametrize("moment", ["capturing", "uploading"])
def test_it_outlives_the_death_of_the_conductor(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk,
    tmp_path: pathlib.Path, moment: str,
) -> None:  # fmt: skip
    image = backends.new_image()
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        with conductors.slowed_network():
            conductors.wait_for_phase(node, moment)
            ironic.kill()
            assert conductors.phase_in_database(ironic, node) == moment
            ironic.start_again()
        node.wait_for("active", timeout_s=120)
    assert same_files(small_disk, backends.glance.images / image, tmp_path)
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []


@pytest.fixture
def pair(tmp_path: pathlib.Path, backends: Backends) -> Iterator[Cluster]:
    """Two conductors with one database, which speak with each other."""
    where = tmp_path / "cluster"
    where.mkdir()
    with (
        recording(),
        cluster.cluster(where, backends, venv=SNAPSHOT_VENV, config=CONFIG) as running,
    ):
        yield running


def test_another_conductor_takes_over_from_one_that_died(
    pair: Cluster, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    node, image = pair.enrol(pair.one), backends.new_image()
    # Through the API of the other one, which asks the node's conductor.
    assert snapshot(node, image).status_code == 202
    with conductors.ramdisk(node, small_disk, "snapshot wait"):
        with conductors.slowed_network():
            conductors.wait_for_phase(node, "capturing")
            node.wait_for("snapshot wait")
            pair.one.kill()
        node.wait_for("active", timeout_s=180)
    assert node.record().conductor == pair.other.host
    assert backends.status(image) == "active"
    assert same_files(small_disk, backends.glance.images / image, tmp_path)
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []


def machine(ironic: Ironic, backends: Backends, disk: disks.Disk) -> Machine:
    """Return a machine of which it shows what its instance needs."""
    name = "machine-%s" % uuid.uuid4()
    made = Machine(ironic, backends.storage, disk, name, vendor_interface="snapshot")
    made.node.cloud.baremetal.update_node(made.node.uuid, owner=conductors.PROJECT)
    return made


def test_an_instance_is_back_whose_conductor_died_after_the_snapshot(
    ironic: Ironic, backends: Backends, small_disk: disks.Disk
) -> None:
    one, image = machine(ironic, backends, small_disk), backends.new_image()
    assert snapshot(one.node, image).status_code == 202
    with dying_midway(ironic, one.node), conductors.ramdisk(one.node, small_disk, "snapshot wait"):
        conductors.wait_for_phase(one.node, "done")
    ironic.start_again()
    wait_until("at home", one.at_home)
    failed = one.node.wait_for("snapshot failed")
    assert "can't be resumed" in failed.last_error
    assert "The instance is brought back" in failed.last_error
    assert backends.status(image) == "active"
    one.node.provision("abort")
    one.node.wait_for("active")
    assert one.at_home()


def test_another_conductor_brings_an_instance_back_whose_own_one_died(
    pair: Cluster, backends: Backends, small_disk: disks.Disk
) -> None:
    node, image = pair.enrol(pair.one, boot_interface="recorded"), backends.new_image()
    assert snapshot(node, image).status_code == 202
    with dying_midway(pair.one, node), conductors.ramdisk(node, small_disk, "snapshot wait"):
        conductors.wait_for_phase(node, "done")
    node.wait_until(
        "failed and back",
        lambda record: (
            record.provision_state == "snapshot failed"
            and "snapshot_ramdisk" not in record.driver_internal_info
        ),
        timeout_s=180,
    )
    failed = node.wait_for("snapshot failed")
    assert failed.conductor == pair.other.host
    assert "take over" in failed.last_error
    assert failed.power_state == "power on"
    node.provision("abort")
    node.wait_for("active")


def test_the_database_of_the_release_is_upgraded_with_its_nodes(tmp_path: pathlib.Path) -> None:
    with Ironic(tmp_path / "ironic", venv=DEFAULT_VENV) as before:
        node = nodes.enrol(before, "kept")
    database = tmp_path / "ironic" / "ironic.sqlite"
    config = tmp_path / "ironic" / "ironic.conf"
    command = [SNAPSHOT_VENV / "bin/ironic-dbsync", "--config-file", config, "upgrade"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    with contextlib.closing(sqlite3.connect(database)) as opened:
        rows = opened.execute("SELECT uuid, version, snapshot_interface FROM nodes").fetchall()
    assert rows == [(node.uuid, "1.44", None)]
