# SPDX-License-Identifier: Apache-2.0
"""Nodes of the laboratory's Ironic: enrol them, start services, and wait for what comes of it."""

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import openstack.baremetal.v1.node
import openstack.connection
import openstack.exceptions

from tests.lab.agent import Lookup
from tests.lab.ironic import Ironic
from tests.lab.releases import RELEASES

Record = openstack.baremetal.v1.node.Node
# The history of nodes came with this version of the API.
_HISTORY_VERSION = "1.78"


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of an Ironic; ``lookup`` is for the agent that plays its ramdisk.

    That agent is to be started once the node is in ``service wait``: earlier it gets no token.
    Nothing ends it when Ironic says that the node is powered off.
    """

    cloud: openstack.connection.Connection
    uuid: str
    lookup: Lookup

    def record(self) -> Record:
        """Return the node as Ironic shows it now."""
        return self.cloud.baremetal.get_node(self.uuid)

    def start_service(self, *steps: Mapping[str, Any]) -> None:
        """Ask for a service with these steps."""
        self.record().set_provision_state(
            self.cloud.baremetal, "service", service_steps=[dict(step) for step in steps]
        )

    def provision(self, target: str) -> None:
        """Ask for a change of the provision state, such as ``abort`` or ``deleted``."""
        self.record().set_provision_state(self.cloud.baremetal, target)

    def abort(self) -> None:
        """Abort the service, and return when the node is where that leads: active, if it can."""
        self.provision("abort")
        self.wait_for("active" if RELEASES.recovers else "service failed")

    def wait_until(
        self, what: str, condition: Callable[[Record], bool], timeout_s: float = 60
    ) -> Record:
        """Return the node as soon as it meets the condition.

        :raises: AssertionError that says how the node is instead.
        """
        deadline = time.monotonic() + timeout_s
        while not condition(record := self.record()):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"after {timeout_s} s the node is not {what}: it is {record.provision_state}, "
                    f"locked by {record.reservation}, in step {record.service_step}, "
                    f"maintenance {record.is_maintenance}, last error {record.last_error}"
                )
            time.sleep(0.1)
        return record

    def wait_for(self, state: str, timeout_s: float = 60) -> Record:
        """Return the node as soon as it is in a provision state, and nobody holds its lock.

        An abort shows the state ``active`` before its work is done: only the lock tells.
        """
        return self.wait_until(
            f"{state} and free",
            lambda record: record.provision_state == state and record.reservation is None,
            timeout_s,
        )

    def wait_for_step(self, step: str, timeout_s: float = 60) -> Record:
        """Return the node as soon as the agent works on a service step."""
        return self.wait_until(
            f"waiting for step {step}",
            lambda record: (
                record.provision_state == "service wait"
                and (record.service_step or {}).get("step") == step
            ),
            timeout_s,
        )

    def history(self) -> list[str]:
        """Return the events of the node's history."""
        answer = self.cloud.baremetal.get(
            f"/nodes/{self.uuid}/history", params={"detail": True}, microversion=_HISTORY_VERSION
        )
        openstack.exceptions.raise_from_response(answer)
        return [entry["event"] for entry in answer.json()["history"]]


def enrol(ironic: Ironic, name: str, **attributes: Any) -> Node:
    """Make a node, with one port, that is ``active`` and on, as if it had been deployed.

    :param attributes: further ones of the node, or others, in the words of openstacksdk.
    """
    cloud = ironic.connection()
    mac = "52:54:00:" + secrets.token_bytes(3).hex(":")
    made = cloud.baremetal.create_node(
        **{
            "name": name,
            "driver": "fake-hardware",
            "driver_info": {
                "deploy_kernel": "http://127.0.0.1:1/kernel",
                "deploy_ramdisk": "http://127.0.0.1:1/ramdisk",
            },
            "instance_info": {
                "image_source": "http://127.0.0.1:1/image",
                "image_checksum": "0" * 64,
                "image_disk_format": "raw",
            },
            **attributes,
        }
    )
    cloud.baremetal.create_port(node_id=made.id, address=mac)
    node = Node(cloud, made.id, Lookup(ironic.url, mac))
    node.provision("manage")
    node.wait_for("manageable")
    node.provision("adopt")
    node.wait_for("active")
    # The fake power interface knows of no state before it was told one.
    cloud.baremetal.set_node_power_state(made.id, "power on")
    node.wait_until("on", lambda record: record.power_state == "power on")
    node.wait_for("active")
    return node
