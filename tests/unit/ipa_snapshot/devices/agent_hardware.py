# SPDX-License-Identifier: Apache-2.0
"""The real hardware module of ironic-python-agent, with disks that the test lists."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# The options of the agent must be known before its hardware module is imported.
import ironic_python_agent.config  # noqa: F401 # isort: skip
from ironic_python_agent import hardware
from oslo_config import cfg

_uuids = itertools.count()


class ListedHardwareManager(hardware.GenericHardwareManager):
    """The agent's own manager; only the disks are not those of this machine."""

    def __init__(self, disks: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.disks = list(disks)

    def list_block_devices(
        self, include_partitions: bool = False, all_serial_and_wwn: bool = False
    ) -> list[hardware.BlockDevice]:
        return [hardware.BlockDevice(**disk) for disk in self.disks]


@contextlib.contextmanager
def agent_with(
    disks: Sequence[Mapping[str, Any]], node: Mapping[str, Any] | None
) -> Iterator[ListedHardwareManager]:
    """Let the agent's hardware module see these ``disks`` and, if not None, have this ``node``."""
    manager = ListedHardwareManager(disks)
    detail = {"name": type(manager).__name__, "manager": manager, "support": 1}
    before = hardware._global_managers, hardware.NODE
    cfg.CONF.set_override("disk_wait_attempts", 0)
    hardware._global_managers, hardware.NODE = [detail], None
    try:
        if node is not None:
            known = {"uuid": "node-%d" % next(_uuids), "instance_info": {}, "properties": {}}
            hardware.cache_node({**known, **node})
        yield manager
    finally:
        hardware._global_managers, hardware.NODE = before
        cfg.CONF.clear_override("disk_wait_attempts")
