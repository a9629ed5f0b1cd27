# SPDX-License-Identifier: Apache-2.0
"""Machines whose disks are snapshotted through Ironic: node, disk, ramdisk, and their storage."""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from tests.lab import disks, nodes
from tests.lab.agent import Agent, FakeDisk
from tests.lab.apache import Apache
from tests.lab.ironic import Ironic
from tests.lab.nodes import Node

SERIAL = "MACHINE-DISK-1"
SECRETS = {"machine": "write-0nly s3cret", "conductor": "re4der s3cret"}
# What Ironic does with boot and networks, to the ramdisk and back to the instance.
THERE = ["network none", "network servicing", "boot ramdisk"]
AND_BACK = ["network none", "network tenant", "boot instance"]
_HARDWARE = pathlib.Path(__file__).parent / "recorded_hardware"
_MARK = "lab hardware: "
_HOLD = "hold-instances"
RECORDED = """\
[DEFAULT]
enabled_boot_interfaces = fake,recorded
enabled_network_interfaces = noop,recorded
"""
# What Ironic's log has in brackets, and its thread's other lines too: the ID of a request.
_ENTERED = re.compile(r" (\[[^]]*\]) Entering new state '([^']+)' in response to event '([^']+)'")
_MOVED = re.compile(
    r' (\[[^]]*\]) Node (\S+) moved to provision state "([^"]+)" from state "([^"]+)"'
)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Let an Ironic that starts now find the interfaces of ``recorded_hardware``."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_HARDWARE), before]))
    try:
        yield
    finally:
        os.environ["PYTHONPATH"] = before or ""


@contextlib.contextmanager
def dying_midway(ironic: Ironic, node: Node) -> Iterator[None]:
    """Kill an Ironic as soon as it is about to boot the node's instance after what is done here."""
    hold = ironic.state / _HOLD
    hold.touch()
    try:
        yield
        what = "%s%s boot held" % (_MARK, node.uuid)
        wait_until("to be held", lambda: what in ironic.log.read_text(errors="replace"), 120)
        ironic.kill()
    finally:
        hold.unlink()


class Storage(Apache):
    """An Apache with the account of the ramdisks, and that of the other side."""

    def __init__(self, directory: pathlib.Path, **options: Any) -> None:
        super().__init__(
            directory, "conductor", SECRETS["conductor"], machine_password=SECRETS["machine"],
            **options,
        )  # fmt: skip

    def account(self, name: str) -> pathlib.Path:
        """Return an auth file of one of the two accounts."""
        path = self.state / (name + ".yaml")
        path.touch(mode=0o600)
        path.write_text("username: %s\npassword: '%s'\n" % (name, SECRETS[name]))
        return path

    def environment(self) -> dict[str, str]:
        """Return the variables by which the command finds it."""
        return {
            "IRONIC_SNAPSHOT_STORAGE_URL": self.url,
            "IRONIC_SNAPSHOT_AUTH_FILE": str(self.account("conductor")),
            "IRONIC_SNAPSHOT_CACERT": str(self.cacert),
        }

    def names(self) -> list[str]:
        """Return all that it holds, save Apache's own files."""
        return sorted(
            str(path.relative_to(self.document_root))
            for path in self.document_root.rglob("*")
            if ".DAV" not in path.parts
        )

    def names_of(self, node: str) -> list[str]:
        """Return what it holds of a node's, by its UUID; an empty collection counts for nothing."""
        return [name for name in self.names() if name.startswith(node + "/")]


@dataclasses.dataclass(frozen=True)
class Move:
    """A change of a node's provision state, and the event that made it, in Ironic's words."""

    source: str
    target: str
    event: str

    @property
    def change(self) -> tuple[str, str]:
        """The two states."""
        return self.source, self.target


def moves(ironic: Ironic, node: str) -> list[Move]:
    """Return the moves of a node (its UUID) since it became ``active``, the oldest first.

    From the log, which has them in their order before the node's lock is released. Notifications
    are another matter: where an event starts a thread, that thread's own first event can be told of
    sooner, or instead.
    """
    found, entered = [], {}
    for line in ironic.log.read_text(errors="replace").splitlines():
        if told := _ENTERED.search(line):
            request, state, event = told.groups()
            entered[request, state] = event
        elif (told := _MOVED.search(line)) and told[2] == node:
            request, _node, target, source = told.groups()
            found.append(Move(source, target, entered[request, target]))
    return found[[move.target for move in found].index("active") + 1 :]


def changes(ironic: Ironic, node: str) -> list[tuple[str, str]]:
    """Return the states of these moves."""
    return [move.change for move in moves(ironic, node)]


class Machine:
    """A machine that Ironic deployed, with one disk."""

    def __init__(
        self, ironic: Ironic, storage: Storage, disk: disks.Disk, name: str, **attributes: Any
    ) -> None:
        self.ironic = ironic
        self.node = nodes.enrol(
            ironic, name, properties={"root_device": {"serial": SERIAL}},
            boot_interface="recorded", network_interface="recorded", **attributes,
        )  # fmt: skip
        self._storage = storage
        self._disk = disk
        self._adopted = len(self._recorded()), len(self._powers())

    @contextlib.contextmanager
    def ramdisk(self) -> Iterator[Agent]:
        """Boot the ramdisk once Ironic waits for it; it runs while the context lasts."""
        section = "[ipa_snapshot]\nstorage_url = %s\ncacert = %s\nauth_file = %s\n" % (
            self._storage.url, self._storage.cacert, self._storage.account("machine"),
        )  # fmt: skip
        self.node.wait_until("waiting for its ramdisk", lambda now: (
            now.provision_state == "service wait" and now.reservation is None
        ))  # fmt: skip
        with disks.LoopDevice(self._disk.path, read_only=True) as loop:
            fake = FakeDisk(loop.path, self._disk.size, serial=SERIAL)
            with Agent([fake], extra_config=section, lookup=self.node.lookup) as agent:
                yield agent

    def snapshot(
        self, *arguments: object, env: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start ``openstack baremetal node snapshot`` with further arguments."""
        command = self.ironic.openstack_command(
            "baremetal", "node", "snapshot", self.node.uuid, *arguments
        )
        environment = {**os.environ, **self.ironic.environment(), **self._storage.environment()}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**environment, **(env or {})},
        )  # fmt: skip

    def hardware(self) -> list[str]:
        """Return what Ironic had its boot and network interfaces do since the deployment."""
        return self._recorded()[self._adopted[0] :]

    def powers(self) -> list[str]:
        """Return the power states that were asked for since the deployment."""
        return self._powers()[self._adopted[1] :]

    def at_home(self) -> bool:
        """Tell whether the machine runs its instance: network, boot device and power."""
        done = self.hardware()
        last = [
            [call for call in done if call.startswith(what)][-1:] for what in ("network", "boot")
        ]
        return (
            last == [["network tenant"], ["boot instance"]]
            and self.powers()[-1] == self.node.record().power_state == "power on"
        )

    def _recorded(self) -> list[str]:
        mark = "%s%s " % (_MARK, self.node.uuid)
        lines = self.ironic.log.read_text(errors="replace").splitlines()
        return [line.partition(mark)[2] for line in lines if mark in line]

    def _powers(self) -> list[str]:
        return [
            told.payload["to_power"]
            for told in self.ironic.notifications(self.node.uuid)
            if told.event == "baremetal.node.power_set.start"
        ]

    def moves(self) -> list[Move]:
        """Return the moves of the provision state since the deployment."""
        return moves(self.ironic, self.node.uuid)

    def changes(self) -> list[tuple[str, str]]:
        """Return the changes of the provision state since the deployment, in Ironic's words."""
        return changes(self.ironic, self.node.uuid)

    def notified(self) -> list[dict[str, Any]]:
        """Return what Ironic notified of changes of the provision state."""
        return [
            told.payload
            for told in self.ironic.notifications(self.node.uuid)
            if told.event.startswith("baremetal.node.provision_set.")
        ]


def wait_until(what: str, condition: Any, timeout_s: float = 60) -> None:
    """Return as soon as the condition is met.

    :raises: AssertionError
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("after %s s not %s" % (timeout_s, what))
        time.sleep(0.1)
