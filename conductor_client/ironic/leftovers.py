# SPDX-License-Identifier: Apache-2.0
"""Remove from the storage what belongs to no snapshot that goes on."""

from collections.abc import Iterable
from dataclasses import replace

from oslo_log import log

from conductor_client import errors
from conductor_client.ironic.record import STOP_PATIENCE_S, Leftover
from snapshot_core.location import manifest_name, part_name, stop_name
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)


def remove(
    storage: Storage, collection: str, leftovers: Iterable[Leftover], now: int
) -> dict[Leftover, Leftover | None]:
    """Remove what can be removed, and return what has become of which: None of those that are gone.

    Where an agent may still be at work, it is asked to stop, and its image is removed for good only
    later: until then it could write it again.

    :param collection: the node's.
    """
    changes: dict[Leftover, Leftover | None] = {}
    for leftover in leftovers:
        name = "%s/%s" % (collection, leftover.image_name)
        try:
            if leftover.agent_until is None:
                _ask_to_stop(storage, name)
                changes[leftover] = replace(leftover, agent_until=now + STOP_PATIENCE_S)
            elif now >= leftover.agent_until:
                # What says that it is to stop goes last.
                for one in (part_name(name), name, manifest_name(name), stop_name(name)):
                    storage.remove(one)
                changes[leftover] = None
        except errors.SnapshotError as exc:
            LOG.warning(
                "%(name)s is not removed yet: %(reason)s",
                {"name": storage.describe(name), "reason": exc},
            )
    return changes


def _ask_to_stop(storage: Storage, name: str) -> None:
    if not storage.exists(stop_name(name)):
        storage.create(stop_name(name))
