# SPDX-License-Identifier: Apache-2.0
"""The periodic tasks of an interface that takes snapshots; those of Ironic find them on it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ironic.common import exception
from ironic.conductor import periodics, task_manager
from ironic.conductor.base_manager import BaseConductorManager
from ironic.conductor.task_manager import TaskManager
from ironic.conf import CONF
from oslo_log import log

from conductor_client.ironic.base import SnapshotInterface
from conductor_client.ironic.record import KEY, RAMDISK_KEY

LOG = log.getLogger(__name__)


def following(wait_state: str) -> Callable[[Any], Any]:
    """Return the decorator of a method that calls :func:`follow` for each snapshot that goes on."""
    decorator: Callable[[Any], Any] = periodics.node_periodic(
        purpose="following snapshots",
        spacing=CONF.snapshot.poll_interval,
        filters={"provision_state": wait_state, "reserved": False, "maintenance": False},
        predicate_extra_fields=["driver_internal_info"],
        predicate=lambda node: KEY in node.driver_internal_info,
    )
    return decorator


def follow(snapshots: SnapshotInterface, task: TaskManager) -> None:
    """Take the snapshot of one node a step further."""
    with _holding_up_no_others(task.node.uuid):
        snapshots.continue_snapshot(task)


# Not a node_periodic: that passes over nodes whose interface is another one by now.
def cleaning_up() -> Callable[[Any], Any]:
    """Return the decorator of a method that calls :func:`clean_up`."""
    decorator: Callable[[Any], Any] = periodics.periodic(spacing=CONF.snapshot.clean_up_interval)
    return decorator


def clean_up(snapshots: SnapshotInterface, manager: BaseConductorManager, context: Any) -> None:
    """Clean up after snapshots that are over, in whatever state their nodes are."""
    nodes = manager.iter_nodes(fields=["driver_internal_info"])
    for uuid in [row[0] for row in nodes if row[-1].keys() & {KEY, RAMDISK_KEY}]:
        with (
            _holding_up_no_others(uuid),
            task_manager.acquire(
                context, uuid, shared=True, load_driver=False, purpose="clean up snapshots"
            ) as task,
        ):
            snapshots.clean_up(task)


@contextlib.contextmanager
def _holding_up_no_others(node: str) -> Iterator[None]:
    """Log what is wrong with one of many nodes; each is looked at again."""
    try:
        yield
    except (exception.NodeLocked, exception.NodeNotFound) as exc:
        LOG.info("Not now: %(reason)s", {"reason": exc})
    except Exception:
        LOG.exception("Unexpected error with the snapshot of node %(node)s", {"node": node})
