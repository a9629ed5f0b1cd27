# SPDX-License-Identifier: Apache-2.0
"""Interfaces for Ironic's fake hardware that do nothing, and write into its log what they would.

This file runs in Ironic's environment. A node's boot device and networks are as the last of
these lines say. As long as there is a file HOLD in Ironic's state_path, no instance is booted.
"""

import pathlib
import time
from typing import Any

from ironic.conf import CONF
from ironic.drivers.modules import fake
from ironic.drivers.modules.network import noop
from oslo_log import log

LOG = log.getLogger(__name__)

#: What comes before the node's UUID and the name of the call.
MARK = "lab hardware:"
HOLD = "hold-instances"


def _record(task: Any, call: str) -> None:
    LOG.info("%s %s %s", MARK, task.node.uuid, call)


class RecordedBoot(fake.FakeBoot):
    """Boots nothing."""

    def prepare_ramdisk(self, task: Any, ramdisk_params: Any, mode: str = "deploy") -> None:
        """Boot the ramdisk next."""
        _record(task, "boot ramdisk")

    def prepare_instance(self, task: Any) -> None:
        """Boot the instance next."""
        hold = pathlib.Path(CONF.state_path, HOLD)
        if hold.exists():
            _record(task, "boot held")
        while hold.exists():
            time.sleep(0.1)
        _record(task, "boot instance")


class RecordedNetwork(noop.NoopNetwork):
    """Connects nothing."""

    def add_servicing_network(self, task: Any) -> dict[str, Any]:
        """Connect the network of services."""
        _record(task, "network servicing")
        return {}

    def remove_servicing_network(self, task: Any) -> None:
        """Disconnect the network of services."""
        _record(task, "network none")

    def configure_tenant_networks(self, task: Any) -> None:
        """Connect the tenant's networks."""
        _record(task, "network tenant")

    def unconfigure_tenant_networks(self, task: Any) -> None:
        """Disconnect the tenant's networks."""
        _record(task, "network none")
