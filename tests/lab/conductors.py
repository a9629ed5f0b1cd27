# SPDX-License-Identifier: Apache-2.0
"""Ironic's conductors with the plug-in, what stands behind them, and snapshots of their nodes."""

import contextlib
import json
import pathlib
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.lab import disks, nodes
from tests.lab.agent import Agent, FakeDisk
from tests.lab.glance import Glance
from tests.lab.ironic import Ironic
from tests.lab.machines import SERIAL, Storage, wait_until
from tests.lab.nodes import Node
from tests.lab.upload_gate import UploadGate

PROJECT = "lab-project"
KEY = "ipa_snapshot"
_CONFIG = """\
[DEFAULT]
enabled_vendor_interfaces = snapshot,no-vendor
[snapshot]
storage_url = {storage.url}
storage_ca = {storage.cacert}
storage_auth_file = {conductor}
agent_auth_file = {machine}
min_free = 0
poll_interval = 1
clean_up_interval = 2
"""


def plugin_config(storage: Storage, **options: object) -> str:
    """Return what an Ironic's configuration needs for the plug-in, with options of [snapshot]."""
    text = _CONFIG.format(
        storage=storage, conductor=storage.account("conductor"), machine=storage.account("machine")
    )
    return text + "".join("%s = %s\n" % option for option in options.items())


@dataclass(frozen=True)
class Backends:
    """The storage, and a Glance behind a gate: conductors are to find it at ``gate.url``."""

    storage: Storage
    glance: Glance
    gate: UploadGate

    def config(self, **options: object) -> str:
        """Return what an Ironic's configuration needs besides: see :func:`plugin_config`."""
        return plugin_config(self.storage, **options)

    def new_image(self) -> str:
        """Make an image that waits for data, and return its UUID."""
        made: str = (
            self.glance.connection().image.create_image(name="one", allow_duplicates=True).id
        )
        return made

    def status(self, image: str) -> str:
        """Return Glance's status of an image."""
        found: str = self.glance.connection().image.get_image(image).status
        return found

    def names(self, node: Node) -> list[str]:
        """Return what the storage has of a node's."""
        return self.storage.names_of(node.uuid)


@contextlib.contextmanager
def backends(directory: pathlib.Path) -> Iterator[Backends]:
    """Run them while the context lasts."""
    with (
        Storage(directory / "storage") as storage,
        # A test may put a conductor to sleep in mid-upload.
        Glance(directory / "glance", stall_timeout_s=120) as glance,
        UploadGate(glance.port) as gate,
    ):
        yield Backends(storage, glance, gate)


def enrol(ironic: Ironic, owner: str = PROJECT, **attributes: Any) -> Node:
    """Enrol a node of a project's, whose conductor takes snapshots."""
    node = nodes.enrol(
        ironic, "machine-%s" % uuid.uuid4(), vendor_interface="snapshot",
        properties={"root_device": {"serial": SERIAL}}, **attributes,
    )  # fmt: skip
    # A server closes a connection that idles; over a slow network a client learns that late.
    node.cloud.baremetal.connect_retries = 3
    # Without Keystone an owner is refused at first, and taken later.
    node.cloud.baremetal.update_node(node.uuid, owner=owner)
    return node


def request(node: Node, step: str, image: str, **options: Any) -> None:
    """Ask for one of the plug-in's steps, with further arguments."""
    arguments = {"image_ref": image, **options}
    node.start_service({"interface": "vendor", "step": step, "args": arguments})


@contextlib.contextmanager
def ramdisk(node: Node, disk: disks.Disk, state: str = "service wait") -> Iterator[Agent]:
    """Boot the node's ramdisk once Ironic waits for it; it runs while the context lasts."""
    node.wait_for(state)
    with disks.LoopDevice(disk.path, read_only=True) as loop:
        fake = FakeDisk(loop.path, disk.size, serial=SERIAL)
        with Agent([fake], lookup=node.lookup) as agent:
            yield agent


@contextlib.contextmanager
def slowed_network() -> Iterator[None]:
    """Let the loopback interface take 16 Mbit/s, so that there is time to see what goes on."""
    command = ["tc", "qdisc", "add", "dev", "lo", "root", "tbf"]
    subprocess.run([*command, "rate", "16mbit", "burst", "1mb", "latency", "400ms"], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def powers(ironic: Ironic, node: Node) -> list[str]:
    """Return the power states that were asked for."""
    return [
        told.payload["to_power"]
        for told in ironic.notifications(node.uuid)
        if told.event == "baremetal.node.power_set.start"
    ]


def phase_of(record: nodes.Record) -> str | None:
    """Return how far a node's snapshot is."""
    book = record.driver_internal_info.get(KEY) or {}
    found: str | None = (book.get("record") or {}).get("phase")
    return found


def wait_for_phase(node: Node, phase: str) -> None:
    """Return as soon as the node's snapshot is in this phase."""
    node.wait_until("in the phase " + phase, lambda record: phase_of(record) == phase)


def wait_until_forgotten(node: Node) -> None:
    """Return as soon as the node remembers no snapshot: then nothing may be in the storage."""
    node.wait_until(
        "without a snapshot", lambda record: KEY not in record.driver_internal_info, timeout_s=120
    )


def spoil_record(ironic: Ironic, node: Node) -> None:
    """Let a node remember something of another version; Ironic must not run."""
    info = {**_internal_info(ironic, node), KEY: {"record": {"of": "another version"}}}
    change_in_database(ironic, node, driver_internal_info=json.dumps(info))


def change_record(ironic: Ironic, node: Node, **fields: object) -> None:
    """Change what a node remembers of its snapshot; Ironic must not run."""
    info = _internal_info(ironic, node)
    info[KEY]["record"].update(fields)
    change_in_database(ironic, node, driver_internal_info=json.dumps(info))


def phase_in_database(ironic: Ironic, node: Node) -> str:
    """Return how far a node's snapshot is; Ironic need not run."""
    found: str = _internal_info(ironic, node)[KEY]["record"]["phase"]
    return found


def _internal_info(ironic: Ironic, node: Node) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(ironic.state / "ironic.sqlite")) as database:
        [info] = database.execute(
            "SELECT driver_internal_info FROM nodes WHERE uuid = ?", (node.uuid,)
        ).fetchone()
    parsed: dict[str, Any] = json.loads(info)
    return parsed


def change_in_database(ironic: Ironic, node: Node, **columns: object) -> None:
    """Change a node's columns; Ironic must not run."""
    assignments = ", ".join("%s = ?" % name for name in columns)
    with contextlib.closing(sqlite3.connect(ironic.state / "ironic.sqlite")) as database, database:
        database.execute(
            "UPDATE nodes SET %s WHERE uuid = ?" % assignments,
            (*columns.values(), node.uuid),
        )


def wait_for_looks(node: Node, count: int = 3) -> None:
    """Return when the plug-in has looked so often at a node that has no ramdisk, from now on."""
    # A heartbeat of a ramdisk would move it, too.
    for _look in range(count):
        before = _touched(node)
        node.wait_until("looked at", lambda _record, before=before: _touched(node) != before)


def _touched(node: Node) -> str:
    answer = node.cloud.baremetal.get("/nodes/" + node.uuid, microversion="1.87")
    found: str = answer.json()["provision_updated_at"]
    return found


class Looks:
    """Looks at all snapshots that an Ironic knows of, again and again.

    :ivar most_captures: so many machines were captured at one of these moments, at most.
    """

    def __init__(self, ironic: Ironic) -> None:
        self.most_captures = 0
        self._baremetal = ironic.connection().baremetal

    def go_on_until(self, *phases: str) -> None:
        """Look until the snapshots, in the order of the alphabet, are in these phases."""

        def look() -> bool:
            # One query, and so one moment.
            found = self._baremetal.nodes(fields=["uuid", "driver_internal_info"])
            now = sorted(filter(None, map(phase_of, found)))
            captures = sum(phase in ("starting", "capturing") for phase in now)
            self.most_captures = max(self.most_captures, captures)
            return now == sorted(phases)

        wait_until("in these phases: %s" % (phases,), look, timeout_s=180)
