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
from conductor_client.ironic.record import Book, Record

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
        book = ledger.read(task.node)
        if self._is_over(task.node, book.record):
            self._retire(task)
        elif book.leftovers:
            self._remove_leftovers(task, book)

    def _is_over(self, node: Node, record: Record | None) -> bool:
        if record is None or self._carrier.is_running(node):
            return False
        return not record.is_kept(ledger.now(), Settings.read(CONF).retention)

    def _retire(self, task: TaskManager) -> None:
        task.upgrade_lock(purpose=_PURPOSE)
        book = ledger.read(task.node)
        if book.record is None or not self._is_over(task.node, book.record):
            return
        self._forget(book.record.generation)
        ledger.write(task.node, book.retired(ledger.now()))

    def _remove_leftovers(self, task: TaskManager, book: Book) -> None:
        uuid = task.node.uuid
        try:
            access = Settings.read(CONF).access()
            with access.opened() as storage:
                gone = leftovers.remove(storage, uuid, book.leftovers, ledger.now())
                if len(gone) == len(book.leftovers) and not _is_in_service(task.node):
                    remove_if_empty(access, storage, uuid)
        except errors.SnapshotError as exc:
            LOG.warning(
                "The storage is not cleaned up after node %(node)s: %(why)s",
                {"node": uuid, "why": exc},
            )
            return
        if gone:
            task.upgrade_lock(purpose=_PURPOSE)
            book = ledger.read(task.node)
            left = tuple(one for one in book.leftovers if one not in gone)
            ledger.write(task.node, Book(book.record, left))


def _is_in_service(node: Node) -> bool:
    """Tell whether a snapshot of any kind may use the node's collection now."""
    return node.provision_state in (states.SERVICING, states.SERVICEWAIT, states.SERVICEHOLD)
