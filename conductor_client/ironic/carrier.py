# SPDX-License-Identifier: Apache-2.0
"""How Ironic carries a snapshot: as a step of a service, or in states of its own."""

from typing import Protocol

from ironic.common import async_steps, faults
from ironic.conductor import utils as manager_utils
from ironic.conductor.task_manager import TaskManager
from ironic.objects import Node

from conductor_client import states
from conductor_client.ironic.record import IMAGE_REF_KEY, RAMDISK_KEY, Phase, Record
from conductor_client.node import is_reason_of_error

FLAG_NO_RAMDISK = "service_disable_ramdisk"
_INTERFACE = "vendor"
_STEPS = ("snapshot", "upload_snapshot")
_UNDER_WAY = (Phase.REQUESTED, Phase.STARTING, Phase.CAPTURING, Phase.UPLOADING)


class Carrier(Protocol):
    """One way.

    :ivar wait_state: in which the node is while a snapshot goes on.
    :ivar timeout_option: in Ironic's section ``[conductor]``: how long it waits for a heartbeat.
    :ivar uploads_again: says what uploads a captured image that was kept.
    """

    wait_state: str
    timeout_option: str
    uploads_again: str

    def is_running(self, node: Node) -> bool:
        """Tell whether a snapshot runs on the node."""

    def is_waiting(self, node: Node) -> bool:
        """Tell whether the node waits for a snapshot to go on."""

    def wait(self, task: TaskManager) -> str:
        """Let the node wait; return the state in which it does."""

    def resume(self, task: TaskManager) -> None:
        """Let Ironic go on after the snapshot; the task has no lock and no node after this."""

    def fail(self, task: TaskManager, message: str) -> None:
        """Fail it, and bring the instance back; the task must have an exclusive lock."""

    def note(self, task: TaskManager, event: str) -> None:
        """Add an event to the node's history; the task must have an exclusive lock."""

    def is_stranded(self, node: Node, record: Record | None) -> bool:
        """Tell whether Ironic itself ended the snapshot, and did not bring the instance back.

        It fails what a dead conductor had in its hands, and does no more.

        :param record: the last snapshot that the node remembers.
        """

    def bring_back(self, task: TaskManager) -> None:
        """Bring the instance of a stranded node back; the task must have an exclusive lock."""


class ServiceCarrier:
    """A step of the vendor interface ``snapshot``, in a service: any Ironic has these."""

    wait_state = states.SERVICE_WAIT
    timeout_option = "service_callback_timeout"
    uploads_again = "the step upload_snapshot"

    def is_running(self, node: Node) -> bool:
        """See :meth:`.Carrier.is_running`."""
        return node.provision_state in (states.SERVICING, states.SERVICE_WAIT) and _is_our_step(
            node
        )

    def is_waiting(self, node: Node) -> bool:
        """See :meth:`.Carrier.is_waiting`."""
        return self.is_running(node) and node.provision_state == self.wait_state

    def wait(self, task: TaskManager) -> str:
        """See :meth:`.Carrier.wait`."""
        # Without the flag Ironic 39 takes each heartbeat for the step's end.
        async_steps.set_node_flags(task.node, polling=True)
        return self.wait_state

    def resume(self, task: TaskManager) -> None:
        """See :meth:`.Carrier.resume`."""
        manager_utils.notify_conductor_resume_service(task)

    def fail(self, task: TaskManager, message: str) -> None:
        """See :meth:`.Carrier.fail`."""
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
        """See :meth:`.Carrier.note`."""
        manager_utils.node_history_record(task.node, event=event, event_type=states.SERVICING)

    def is_stranded(self, node: Node, record: Record | None) -> bool:
        """See :meth:`.Carrier.is_stranded`."""
        if node.provision_state != states.SERVICE_FAILED:
            return False
        if node.maintenance:
            # Ironic's own patience was at its end: then it sets this first, and with it touches
            # neither power nor networks.
            under_way = record is not None and record.phase in _UNDER_WAY
            is_as_it_failed = is_reason_of_error(node.maintenance_reason, node.last_error)
            return under_way and node.fault == faults.SERVICE_FAILURE and is_as_it_failed
        # Whatever else fails a service takes its step away. So does the end of one, before the
        # instance is brought back; after an upload alone there is nothing to bring back.
        is_done = record is not None and record.phase == Phase.DONE and record.kept_since is None
        return is_done or _is_our_step(node)

    def bring_back(self, task: TaskManager) -> None:
        """See :meth:`.Carrier.bring_back`."""
        node = task.node
        node.maintenance, node.maintenance_reason, node.fault = False, None, None
        manager_utils.servicing_error_handler(
            task, _brought_back(node), set_maintenance=False, set_fail_state=False,
            tear_down_service=not node.driver_internal_info.get(FLAG_NO_RAMDISK),
        )  # fmt: skip


class StateCarrier:
    """The specification's own states: an Ironic that has the interface ``snapshot`` has these."""

    wait_state = states.SNAPSHOT_WAIT
    timeout_option = "snapshot_callback_timeout"
    uploads_again = "'openstack baremetal node snapshot --resume' with access to the storage"

    def is_running(self, node: Node) -> bool:
        """See :meth:`.Carrier.is_running`."""
        return (
            node.provision_state in (states.SNAPSHOTTING, states.SNAPSHOT_WAIT)
            and IMAGE_REF_KEY not in node.driver_internal_info
        )

    def is_waiting(self, node: Node) -> bool:
        """See :meth:`.Carrier.is_waiting`."""
        return self.is_running(node) and node.provision_state == self.wait_state

    def wait(self, task: TaskManager) -> str:
        """See :meth:`.Carrier.wait`."""
        return self.wait_state

    def resume(self, task: TaskManager) -> None:
        """See :meth:`.Carrier.resume`."""
        manager_utils.notify_conductor_resume_operation(task, "snapshot")

    def fail(self, task: TaskManager, message: str) -> None:
        """See :meth:`.Carrier.fail`."""
        # Other Ironics do not have it.
        from ironic.conductor import snapshots  # noqa: PLC0415

        text = "The snapshot of node %s failed. %s" % (task.node.uuid, message)
        snapshots.error_handler(task, text)

    def note(self, task: TaskManager, event: str) -> None:
        """See :meth:`.Carrier.note`."""
        manager_utils.node_history_record(task.node, event=event, event_type=states.SNAPSHOTTING)

    def is_stranded(self, node: Node, record: Record | None) -> bool:
        """See :meth:`.Carrier.is_stranded`."""
        failed = node.provision_state == states.SNAPSHOT_FAILED and not node.maintenance
        return failed and node.driver_internal_info.get(RAMDISK_KEY) is True

    def bring_back(self, task: TaskManager) -> None:
        """See :meth:`.Carrier.bring_back`."""
        from ironic.conductor import snapshots  # noqa: PLC0415

        snapshots.error_handler(task, _brought_back(task.node), set_fail_state=False)


def _is_our_step(node: Node) -> bool:
    step = node.service_step or {}
    return step.get("interface") == _INTERFACE and step.get("step") in _STEPS


def _brought_back(node: Node) -> str:
    return "%s The instance is brought back." % (node.last_error or "The snapshot failed.")


WAYS: tuple[Carrier, ...] = (ServiceCarrier(), StateCarrier())


def is_running(node: Node) -> bool:
    """Tell whether a snapshot runs on the node, in whichever way."""
    return any(way.is_running(node) for way in WAYS)
