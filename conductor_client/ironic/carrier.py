# SPDX-License-Identifier: Apache-2.0
"""How an unmodified Ironic carries a snapshot: as one step of a service.

An Ironic with states of its own for snapshots needs another one of these, and nothing else here.
"""

from collections.abc import Collection

from ironic.common import async_steps, states
from ironic.conductor import utils as manager_utils
from ironic.conductor.task_manager import TaskManager
from ironic.objects import Node

FLAG_NO_RAMDISK = "service_disable_ramdisk"


class ServiceCarrier:
    """A service's step of one of these names, on one interface.

    :ivar wait_state: in which the node is while a snapshot goes on.
    """

    wait_state = states.SERVICEWAIT

    def __init__(self, interface: str, steps: Collection[str]) -> None:
        self._interface = interface
        self._steps = steps

    def is_running(self, node: Node) -> bool:
        """Tell whether the node is in one of these steps."""
        step = node.service_step or {}
        return (
            node.provision_state in (states.SERVICING, states.SERVICEWAIT)
            and step.get("interface") == self._interface
            and step.get("step") in self._steps
        )

    def is_waiting(self, node: Node) -> bool:
        """Tell whether the node waits for one of these steps to go on."""
        return self.is_running(node) and node.provision_state == states.SERVICEWAIT

    def wait(self, task: TaskManager) -> str:
        """Let the node wait; return the state that the step is to return."""
        # Without the flag Ironic 39 takes each heartbeat for the step's end.
        async_steps.set_node_flags(task.node, polling=True)
        return str(states.SERVICEWAIT)

    def resume(self, task: TaskManager) -> None:
        """Let Ironic go on after the step; the task has no lock and no node after this."""
        manager_utils.notify_conductor_resume_service(task)

    def fail(self, task: TaskManager, message: str) -> None:
        """Fail the step, and bring the instance back; the task must have an exclusive lock."""
        node = task.node
        step = "%s.%s" % (node.service_step.get("interface"), node.service_step.get("step"))
        text = "Service step %s failed on node %s. %s" % (step, node.uuid, message)
        # With maintenance, which is the default, Ironic 39 skips power, networks and boot device
        # in the tear-down: the instance would stay down. Without a ramdisk it never went down, and
        # a tear-down would cut its power.
        manager_utils.servicing_error_handler(
            task, text, set_maintenance=False,
            tear_down_service=not node.driver_internal_info.get(FLAG_NO_RAMDISK),
        )  # fmt: skip

    def note(self, task: TaskManager, event: str) -> None:
        """Add an event to the node's history; the task must have an exclusive lock."""
        manager_utils.node_history_record(task.node, event=event, event_type=states.SERVICING)
