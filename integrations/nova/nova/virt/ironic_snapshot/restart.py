# SPDX-License-Identifier: Apache-2.0
"""After a restart of nova-compute: the way back from a snapshot that nobody waits for any more."""

import time
from typing import Any

from nova.compute import task_states
from nova.virt.ironic_snapshot.running import RunningSnapshot

from conductor_client import recovery, states
from conductor_client.node import Node, Provision, Record
from conductor_client.provision import ServiceStep, Verb
from conductor_client.service import STEP

# An instance that has one of these when nova-compute starts was in a snapshot when that ended:
# before the first of them the driver does nothing.
TASKS = (
    task_states.IMAGE_PENDING_UPLOAD,
    task_states.IMAGE_UPLOADING,
    task_states.SHELVING_IMAGE_PENDING_UPLOAD,
    task_states.SHELVING_IMAGE_UPLOADING,
)
_POLL_S = 5.0


def follow(connection: Any, node: str, running: RunningSnapshot) -> None:
    """Return when a node's snapshot is over, however it ended, and the instance is back.

    It is aborted if it is told to end. A node in any other service is left alone.

    :raises: NodeNotReady, IronicUnavailable, ServiceFailed
    """
    ironic_node = Node(connection, node)
    record = ironic_node.read()
    snapshot = _snapshot_of(record)
    if snapshot is None:
        return
    while _goes_on(snapshot, record) and not running.is_unwanted:
        time.sleep(_POLL_S)
        record = ironic_node.read()
    recovery.bring_back(ironic_node, snapshot.may_be_in, finishing=False)


def _snapshot_of(record: Record) -> Provision | None:
    """Return the snapshot that the node is in or that failed, if that is shown."""
    if record.provision_state in states.SNAPSHOT_STATES:
        return Verb(record.image_ref or "")
    if record.provision_state in (*states.AT_WORK, states.SERVICE_FAILED):
        for step in record.steps or ():
            if step.get("step") == STEP:
                return ServiceStep(step)
    return None


def _goes_on(snapshot: Provision, record: Record) -> bool:
    return record.provision_state in states.WORKING and snapshot.may_be_in(record)
