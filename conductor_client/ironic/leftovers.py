# SPDX-License-Identifier: Apache-2.0
"""Remove from the storage what belongs to no snapshot that goes on."""

from collections.abc import Iterable

from oslo_log import log

from conductor_client import errors
from conductor_client.ironic.record import Leftover
from snapshot_core.location import manifest_name, part_name, stop_name
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)


def remove(
    storage: Storage, collection: str, leftovers: Iterable[Leftover], now: int
) -> list[Leftover]:
    """Remove what can be removed, and return of which images nothing is left.

    Where an agent may still be at work, it is asked to stop, and its image is removed for good only
    later: until then it could write it again.

    :param collection: the node's.
    """
    gone = []
    for leftover in leftovers:
        name = "%s/%s" % (collection, leftover.image_name)
        try:
            if now < leftover.agent_until:
                _ask_to_stop(storage, name)
            else:
                # What says that it is to stop goes last.
                for one in (part_name(name), name, manifest_name(name), stop_name(name)):
                    storage.remove(one)
                gone.append(leftover)
        except errors.SnapshotError as exc:
            LOG.warning(
                "%(name)s is not removed yet: %(reason)s",
                {"name": storage.describe(name), "reason": exc},
            )
    return gone


def _ask_to_stop(storage: Storage, name: str) -> None:
    if not storage.exists(stop_name(name)):
        storage.create(stop_name(name))
