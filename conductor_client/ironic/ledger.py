# SPDX-License-Identifier: Apache-2.0
"""What nodes remember of their snapshots: read it, and commit changes of it."""

import contextlib
import time
from dataclasses import replace
from typing import Any

from ironic.conductor.task_manager import TaskManager
from ironic.objects import Node
from oslo_log import log

from conductor_client.ironic.metrics import get_metrics_logger
from conductor_client.ironic.record import KEY, Book, Phase, Record, UnreadableRecord

LOG = log.getLogger(__name__)
METRICS = get_metrics_logger(__name__)


def now() -> int:
    """Return the time in seconds since the epoch: that of other conductors, too."""
    return int(time.time())


def tenancy(node: Node) -> tuple[str | None, ...]:
    """Return whose disk the node has now: another instance's is not that of the one before."""
    project = node.instance_info.get("project_id")
    return (node.instance_uuid, node.owner, node.lessee, project)


def read(node: Node) -> Book:
    """Return what the node remembers, as it was when the node was read.

    :raises: UnreadableRecord
    """
    return Book.parse(node.driver_internal_info.get(KEY))


def read_or_give_up(node: Node) -> Book:
    """Return what the node remembers; what cannot be read is an empty book, and soon lost."""
    try:
        return read(node)
    except UnreadableRecord as exc:
        LOG.error(
            "Node %(node)s: %(why)s. Its images are left to 'ironic-snapshot reap'",
            {"node": node.uuid, "why": exc},
        )
        return Book()


def write(node: Node, book: Book) -> None:
    """Commit a book; the caller holds the node's lock."""
    wire = book.to_wire()
    if wire is None:
        node.del_driver_internal_info(KEY)
    else:
        node.set_driver_internal_info(KEY, wire)
    node.save()


def remembers(node: Node, book: Book) -> bool:
    """Tell whether the node remembers just this."""
    return bool(node.driver_internal_info.get(KEY) == book.to_wire())


def turn(task: TaskManager, record: Record, phase: Phase, **changes: Any) -> Record:
    """Commit another phase of the record, and return the new record; the caller holds the lock."""
    return put(task, record.turned(phase, now(), **changes))


def put(task: TaskManager, record: Record) -> Record:
    """Commit a record that is in another phase, and return it; the caller holds the lock."""
    book = read(task.node)
    write(task.node, replace(book, record=record))
    if book.record is not None:
        name = METRICS.get_metric_name("phase.%s" % book.record.phase)
        METRICS.send_timer(name, (record.since - book.record.since) * 1000)
    LOG.info(
        "Snapshot of node %(node)s into image %(image)s: %(phase)s",
        {"node": task.node.uuid, "image": record.image_ref, "phase": record.phase},
    )
    return record


def count_captures(task: TaskManager, wait_states: list[str]) -> int:
    """Return how many machines are captured now, by any conductor."""
    nodes = Node.list(
        task.context, filters={"provision_state_in": wait_states}, fields=["driver_internal_info"]
    )
    return sum(_is_captured(node) for node in nodes)


def _is_captured(node: Node) -> bool:
    # One that cannot be read fails as soon as its own conductor looks at it.
    with contextlib.suppress(UnreadableRecord):
        record = read(node).record
        return record is not None and record.phase in (Phase.STARTING, Phase.CAPTURING)
    return False
