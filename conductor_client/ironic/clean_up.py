# SPDX-License-Identifier: Apache-2.0
"""Clean up after snapshots that are over, however they ended: most ends are not told to us."""

from collections.abc import Callable
from dataclasses import replace

from ironic.conductor.task_manager import TaskManager
from ironic.conf import CONF
from ironic.objects import Node
from oslo_log import log

from conductor_client import errors, states
from conductor_client.collection import remove_if_empty
from conductor_client.ironic import ledger, leftovers
from conductor_client.ironic.carrier import WAYS, is_running
from conductor_client.ironic.config import Settings
from conductor_client.ironic.record import Book, Leftover, Phase

LOG = log.getLogger(__name__)

_PURPOSE = "clean up after a snapshot"


class CleanUp:
    """Cleans up, one node at a call.

    :param forget: ends the work that goes on for the snapshot of this generation.
    """

    def __init__(self, forget: Callable[[str], None]) -> None:
        self._forget = forget

    def __call__(self, task: TaskManager) -> None:
        """Take the next step; the task has a shared lock, and the node is in any state."""
        if not is_running(task.node):
            self._bring_back_if_stranded(task)
            self._conclude(task)
        # At once: an agent that is at work does not know that nobody wants its image any more.
        if left := ledger.read(task.node).leftovers:
            self._remove(task, left)

    def _bring_back_if_stranded(self, task: TaskManager) -> None:
        for way in WAYS:
            if way.is_stranded(task.node, ledger.read_or_give_up(task.node).record):
                task.upgrade_lock(purpose=_PURPOSE)
                if way.is_stranded(task.node, ledger.read_or_give_up(task.node).record):
                    task.load_driver()
                    way.bring_back(task)
                task.downgrade_lock()

    def _conclude(self, task: TaskManager) -> None:
        book = ledger.read_or_give_up(task.node)
        if self._after_the_service(task.node, book) == book and ledger.remembers(task.node, book):
            return
        task.upgrade_lock(purpose=_PURPOSE)
        book = ledger.read_or_give_up(task.node)
        if not is_running(task.node):
            if book.record is not None:
                self._forget(book.record.generation)
            ledger.write(task.node, self._after_the_service(task.node, book))
        # None is held while the storage is waited for.
        task.downgrade_lock()

    def _after_the_service(self, node: Node, book: Book) -> Book:
        """Return what is to be remembered once the service is over, however it ended."""
        record, now = book.record, ledger.now()
        if record is None or not record.kept_for_s(now, Settings.read(CONF).retention):
            return book.retired()
        if record.disk_of != ledger.tenancy(node):
            return book.retired()  # Its instance is gone; nobody else is to get its disk.
        # Its upload may have been cut short once more.
        return book if record.phase == Phase.KEPT else replace(book, record=record.kept(now))

    def _remove(self, task: TaskManager, old: tuple[Leftover, ...]) -> None:
        uuid = task.node.uuid
        try:
            access = Settings.read(CONF).access()
            with access.opened() as storage:
                changes = leftovers.remove(storage, uuid, old, ledger.now())
                if all(changes.get(one, one) is None for one in old) and not _is_used(task.node):
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


def _is_used(node: Node) -> bool:
    """Tell whether a snapshot of any kind may use the node's collection now."""
    return node.provision_state in states.AT_WORK
