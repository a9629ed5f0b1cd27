# SPDX-License-Identifier: Apache-2.0
"""The tempest plug-in of integrations/tempest, against a real Keystone, Glance and Ironic.

A room of machines stands for the hardware: what Ironic boots a ramdisk on has a real agent then,
with a file for its disk. Of the kernel's parameters it takes one alone, where the agent finds
Ironic.
"""

import contextlib
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass

import pytest

from tests.lab import disks, machines, nodes
from tests.lab.agent import Agent, FakeDisk, Lookup
from tests.lab.apache import Apache
from tests.lab.conductors import plugin_config
from tests.lab.disk_maker import MIB
from tests.lab.glance import Glance
from tests.lab.ironic import DEFAULT_VENV, SNAPSHOT_VENV, Ironic
from tests.lab.keystone import Keystone
from tests.lab.machines import SERIAL, Storage
from tests.lab.nodes import Node

VENV = pathlib.Path(__file__).parents[2] / ".venv-tempest"
PLUGIN = "ironic_snapshot_tempest_plugin"
CALLBACK_TIMEOUT_S = 40
# The interfaces by which a conductor takes snapshots of a node.
WAYS = {
    "service-steps": (DEFAULT_VENV, {"vendor_interface": "snapshot"}),
    "verb": (SNAPSHOT_VENV, {}),
}
_BOOT = re.compile(r"lab hardware: (?P<node>\S+) boot (?P<device>\w+)")
# Ironic's own fake refuses to boot a disk next, which each deployment asks for.
_MANAGEMENT = """\
from ironic.common import boot_devices
from ironic.drivers.modules import fake


class LabManagement(fake.FakeManagement):
    def get_supported_boot_devices(self, task):
        return [boot_devices.PXE, boot_devices.DISK]
"""
_ENTRY_POINTS = """\
[ironic.hardware.interfaces.management]
lab = lab_management:LabManagement
"""
_IRONIC = """\
{recorded}
enabled_management_interfaces = fake,lab
# These two an unmodified Ironic does not know.
enabled_snapshot_interfaces = agent,no-snapshot
default_snapshot_interface = agent
[deploy]
http_root = {images.document_root}
http_url = {images.url}
[conductor]
service_callback_timeout = {timeout_s}
snapshot_callback_timeout = {timeout_s}
"""
_TEMPEST = """\
[DEFAULT]
log_file = {where}/tempest.log
[oslo_concurrency]
lock_path = {where}/locks
[auth]
use_dynamic_credentials = true
create_isolated_networks = false
admin_username = admin
admin_password = {keystone.password}
admin_project_name = admin
admin_domain_name = Default
[identity]
auth_version = v3
uri_v3 = {keystone.auth_url}
region = {keystone.region}
[service_available]
glance = true
nova = false
neutron = false
cinder = false
swift = false
horizon = false
[ironic_snapshot]
node = {node}
spare_nodes = {spares}
poll_interval = 1
snapshot_timeout = 120
deploy_timeout = 120
callback_timeout = {timeout_s}
upload_project = {project}
storage_break_command = chmod 0555 {storage.document_root}
storage_mend_command = chmod 0755 {storage.document_root}
machine_cut_command = touch {cut}
"""


@dataclass
class Placed:
    """A machine of the room: its node and its disk, and what Ironic had it boot last.

    :ivar boots: so often it was told what to boot, and the last that it did was ``booted``.
    """

    node: Node
    disk: pathlib.Path
    device: str = "instance"
    boots: int = 0
    booted: int = 0
    agent: Agent | None = None

    def state(self) -> str:
        """Return the node's provision state."""
        state: str = self.node.record().provision_state
        return state

    def is_to_stop(self) -> bool:
        """Tell whether its power was cut since it booted the ramdisk."""
        # At the end of a deployment the ramdisk goes on after Ironic has chosen the next device.
        return self.boots != self.booted and (
            self.device == "ramdisk" or self.state() != "deploying"
        )


@contextlib.contextmanager
def partitions_forgotten(device: str) -> Iterator[None]:
    """Let the kernel forget in the end what partitions an agent told it of: they would stay."""
    try:
        yield
    finally:
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)


class Room:
    """Machines that boot the ramdisk, or their instance, as Ironic's log says.

    :param cut: a file after whose appearance all of them are without power until they boot.
    """

    def __init__(self, ironic: Ironic, cut: pathlib.Path) -> None:
        self._api_url = ironic.url
        self._cut = cut
        self._log = ironic.log
        self._machines: dict[str, Placed] = {}

    def place(self, node: Node, disk: pathlib.Path) -> None:
        """Give a node its machine, with a disk."""
        self._machines[node.uuid] = Placed(node, disk)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Let the machines run while the context lasts."""
        closing = threading.Event()
        # Agents die with the thread that started them, so each machine has one of its own.
        with futures.ThreadPoolExecutor(len(self._machines) + 1) as pool:
            work = [pool.submit(self._attend, closing)]
            work += [pool.submit(self._run, one, closing) for one in self._machines.values()]
            try:
                yield
            finally:
                closing.set()
            for done in work:
                done.result()

    def _attend(self, closing: threading.Event) -> None:
        with self._log.open(errors="replace") as log:
            while not closing.wait(0.2):
                for told in _BOOT.finditer(log.read()):
                    if machine := self._machines.get(told["node"]):
                        machine.boots += 1
                        machine.device = told["device"]
                if power_is_cut := self._cut.exists():
                    self._cut.unlink()
                for machine in self._machines.values():
                    # The machine's own thread forgets it as soon as it has ended.
                    agent = machine.agent
                    if agent is not None and (power_is_cut or machine.is_to_stop()):
                        agent.kill()

    def _run(self, machine: Placed, closing: threading.Event) -> None:
        while not closing.wait(0.2):
            if machine.device != "ramdisk" or machine.booted == machine.boots:
                continue
            # Earlier its agent would get no token.
            if machine.state() in ("wait call-back", "service wait", "snapshot wait"):
                machine.booted = machine.boots
                self._run_ramdisk(machine, closing)

    def _run_ramdisk(self, machine: Placed, closing: threading.Event) -> None:
        parameters = machine.node.record().instance_info.get("kernel_append_params") or ""
        [*_, url] = [self._api_url, *re.findall(r"ipa-api-url=(\S+)", parameters)]
        with disks.LoopDevice(machine.disk) as loop, partitions_forgotten(loop.path):
            disk = FakeDisk(loop.path, machine.disk.stat().st_size, serial=SERIAL)
            machine.agent = Agent([disk], lookup=Lookup(url, machine.node.lookup.mac))
            # It may be killed before it answers, or end because it does not find Ironic.
            with contextlib.suppress(RuntimeError), machine.agent:
                while not closing.wait(0.2) and not machine.is_to_stop():
                    pass
            machine.agent = None


@pytest.fixture(scope="module")
def glance(tmp_path_factory: pytest.TempPathFactory, keystone: Keystone) -> Iterator[Glance]:
    with Glance(tmp_path_factory.mktemp("glance"), keystone=keystone) as server:
        yield server


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[Storage]:
    with Storage(tmp_path / "storage") as server:
        yield server


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def management(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an Ironic that starts now find the interface that boots disks."""
    package = tmp_path / "management"
    about = package / "lab_management-1.dist-info"
    about.mkdir(parents=True)
    (package / "lab_management.py").write_text(_MANAGEMENT)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-management\nVersion: 1\n")
    (about / "entry_points.txt").write_text(_ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(package))


@pytest.fixture
def ironic(
    way: str, keystone: Keystone, glance: Glance, storage: Storage, tmp_path: pathlib.Path,
    management: None,
) -> Iterator[Ironic]:  # fmt: skip
    venv, _attributes = WAYS[way]
    with machines.recording(), Apache(tmp_path / "http", None, tls=False) as images:
        config = plugin_config(storage, retention=0) + _IRONIC.format(
            recorded=machines.RECORDED, images=images, timeout_s=CALLBACK_TIMEOUT_S
        )
        with Ironic(
            tmp_path / "ironic", glance.url, extra_config=config, keystone=keystone, venv=venv
        ) as server:
            yield server


def enrol(ironic: Ironic, way: str, name: str) -> Node:
    """Make a node that was deployed, and whose conductor takes snapshots."""
    _venv, attributes = WAYS[way]
    return nodes.enrol(
        ironic, name, boot_interface="recorded", network_interface="recorded",
        management_interface="lab",
        properties={"root_device": {"serial": SERIAL}, "capabilities": "boot_mode:bios"},
        # The machine of an agent that calls poweroff stays on here.
        driver_info={
            "deploy_kernel": "http://127.0.0.1:1/kernel",
            "deploy_ramdisk": "http://127.0.0.1:1/ramdisk",
            "deploy_forces_oob_reboot": True,
        },
        **attributes,
    )  # fmt: skip


def new_disk(path: pathlib.Path, size: int) -> pathlib.Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def forget_interface(ironic: Ironic, node: Node) -> None:
    """Let a node have no snapshot interface yet, as after an upgrade."""
    with contextlib.closing(sqlite3.connect(ironic.state / "ironic.sqlite")) as database, database:
        database.execute("UPDATE nodes SET snapshot_interface = NULL WHERE uuid = ?", (node.uuid,))


@contextlib.contextmanager
def a_limit_of_its_own(keystone: Keystone, project: str, resource: str) -> Iterator[None]:
    """Let a project have a limit of its own, which in the end must be as it was."""
    identity = keystone.admin.connection().identity
    [registered] = [one for one in identity.registered_limits() if one.resource_name == resource]
    value = registered.default_limit
    identity.create_limit(
        service_id=registered.service_id, region_id=registered.region_id, project_id=project,
        resource_name=resource, resource_limit=value,
    )  # fmt: skip
    yield
    [kept] = identity.limits(project_id=project, resource_name=resource)
    assert kept.resource_limit == value
    identity.delete_limit(kept)


def run_tempest(where: pathlib.Path, config: str) -> str:
    """Run the plug-in's tests as an operator does, and return what is printed."""
    where.mkdir()
    path = where / "tempest.conf"
    path.touch(mode=0o600)
    path.write_text(config)
    done = subprocess.run(
        [VENV / "bin/tempest", "run", "--config-file", path, "--serial", "--regex", "^" + PLUGIN],
        cwd=where, env={**os.environ, "HOME": str(where)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.timeout(1500)  # some six minutes beside the tests of other files
def test_the_scenarios_pass(
    way: str, keystone: Keystone, storage: Storage, ironic: Ironic, small_disk: disks.Disk,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    node, *spares = [enrol(ironic, way, name) for name in ("node", "spare-1", "spare-2")]
    for spare in spares:
        spare.provision("deleted")
    for spare in spares:
        spare.wait_for("available")
    cut = tmp_path / "cut"
    room = Room(ironic, cut)
    original = tmp_path / "node.raw"
    shutil.copyfile(small_disk.path, original)
    room.place(node, original)
    larger = [
        new_disk(tmp_path / (spare.uuid + ".raw"), small_disk.size + 100 * MIB) for spare in spares
    ]
    for spare, disk in zip(spares, larger, strict=True):
        room.place(spare, disk)
    if way == "verb":
        forget_interface(ironic, node)
    project = keystone.project_id("service")
    config = _TEMPEST.format(
        where=tmp_path / "tempest", keystone=keystone, storage=storage, node=node.uuid,
        spares=",".join(spare.uuid for spare in spares), timeout_s=CALLBACK_TIMEOUT_S,
        project=project, cut=cut,
    )  # fmt: skip
    with room.open(), a_limit_of_its_own(keystone, project, "image_size_total"):
        said = run_tempest(tmp_path / "tempest", config)
    counts = {name: int(count) for name, count in re.findall(r"- (\w+): +(\d+)", said)}
    assert (counts["Passed"], counts["Skipped"], counts["Failed"]) == (16, 0, 0), said
    for disk in (original, *larger):
        for partition in small_disk.partitions:
            assert disks.checksums(disk, partition) == disks.checksums(small_disk.path, partition)
    assert [name for name in storage.names() if "/" in name] == []
