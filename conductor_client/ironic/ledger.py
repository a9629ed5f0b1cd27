# SPDX-License-Identifier: Apache-2.0
"""What nodes remember of their snapshots: read it, and commit changes of it."""

import time
from typing import Any

from ironic.conductor.task_manager import TaskManager
from ironic.objects import Node
from oslo_log import log

from conductor_client.ironic.metrics import get_metrics_logger
from conductor_client.ironic.record import KEY, Book, Phase, Record

LOG = log.getLogger(__name__)
METRICS = get_metrics_logger(__name__)


def now() -> int:
    """Return the time in seconds since the epoch: that of other conductors, too."""
    return int(time.time())


def read(node: Node) -> Book:
    """Return what the node remembers, as it was when the node was read."""
    return Book.parse(node.driver_internal_info.get(KEY))


def write(node: Node, book: Book) -> None:
    """Commit a book; the caller holds the node's lock."""
    wire = book.to_wire()
    if wire is None:
        node.del_driver_internal_info(KEY)
    else:
        node.set_driver_internal_info(KEY, wire)
    node.save()


def turn(task: TaskManager, record: Record, phase: Phase, **changes: Any) -> Record:
    """Commit another phase of the record, and return the new record; the caller holds the lock."""
    book, moment = read(task.node), now()
    turned = record.turned(phase, moment, **changes)
    write(task.node, Book(turned, book.leftovers))
    if book.record is not None:
        name = METRICS.get_metric_name("phase.%s" % book.record.phase)
        METRICS.send_timer(name, (moment - book.record.since) * 1000)
    LOG.info(
        "Snapshot of node %(node)s into image %(image)s: %(phase)s",
        {"node": task.node.uuid, "image": record.image_ref, "phase": phase},
    )
    return turned


def count_captures(task: TaskManager, wait_state: str) -> int:
    """Return how many machines are captured now, by any conductor."""
    nodes = Node.list(
        task.context, filters={"provision_state": wait_state}, fields=["driver_internal_info"]
    )
    records = [read(node).record for node in nodes]
    return sum(
        record is not None and record.phase in (Phase.STARTING, Phase.CAPTURING)
        for record in records
    )
