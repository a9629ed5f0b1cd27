# SPDX-License-Identifier: Apache-2.0
"""Clean up after snapshots that are over, however they ended: most ends are not told to us."""

from collections.abc import Callable

from ironic.common import states
from ironic.conductor.task_manager import TaskManager
from ironic.conf import CONF
from ironic.objects import Node
from oslo_log import log

from conductor_client import errors
from conductor_client.collection import remove_if_empty
from conductor_client.ironic import ledger, leftovers
from conductor_client.ironic.carrier import ServiceCarrier
from conductor_client.ironic.config import Settings
from conductor_client.ironic.record import Leftover, Record

LOG = log.getLogger(__name__)

_PURPOSE = "clean up after a snapshot"


class CleanUp:
    """Cleans up, one node at a call.

    :param forget: ends the work that goes on for the snapshot of this generation.
    """

    def __init__(self, carrier: ServiceCarrier, forget: Callable[[str], None]) -> None:
        self._carrier = carrier
        self._forget = forget

    def __call__(self, task: TaskManager) -> None:
        """Take the next step; the task has a shared lock, and the node is in any state."""
        if self._is_over(task.node, ledger.read(task.node).record):
            self._retire(task)
        # At once: an agent that is at work does not know that nobody wants its image any more.
        if left := ledger.read(task.node).leftovers:
            self._remove(task, left)

    def _is_over(self, node: Node, record: Record | None) -> bool:
        if record is None or self._carrier.is_running(node):
            return False
        return not record.is_kept(ledger.now(), Settings.read(CONF).retention)

    def _retire(self, task: TaskManager) -> None:
        task.upgrade_lock(purpose=_PURPOSE)
        book = ledger.read(task.node)
        if book.record is not None and self._is_over(task.node, book.record):
            self._forget(book.record.generation)
            ledger.write(task.node, book.retired())
        # None is held while the storage is waited for.
        task.downgrade_lock()

    def _remove(self, task: TaskManager, old: tuple[Leftover, ...]) -> None:
        uuid = task.node.uuid
        try:
            access = Settings.read(CONF).access()
            with access.opened() as storage:
                changes = leftovers.remove(storage, uuid, old, ledger.now())
                if all(changes.get(one, one) is None for one in old) and not _in_service(task.node):
                    remove_if_empty(access, storage, uuid)
        except errors.SnapshotError as exc:
            LOG.warning(
                "The storage is not cleaned up after node %(node)s: %(why)s",
                {"node": uuid, "why": exc},
            )
            return
        if changes:
            task.upgrade_lock(purpose=_PURPOSE)
            ledger.write(task.node, ledger.read(task.node).cleaned(changes))


def _in_service(node: Node) -> bool:
    """Tell whether a snapshot of any kind may use the node's collection now."""
    return node.provision_state in (states.SERVICING, states.SERVICEWAIT, states.SERVICEHOLD)
