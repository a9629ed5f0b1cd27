# SPDX-License-Identifier: Apache-2.0
"""Remove what nobody fetched from the intermediate storage, once it is old enough.

That is an image that waits for its upload to be resumed, or what an abort left of one when it cut
the machine's power.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from oslo_log import log

from conductor_client import errors
from conductor_client.access import StorageAccess
from conductor_client.collection import Member, is_probe, members, remove_if_empty
from conductor_client.ramdisk_step import read_manifest
from snapshot_core.location import MANIFEST_SUFFIX, PART_SUFFIX, STOP_SUFFIX
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SUFFIXES = (MANIFEST_SUFFIX, PART_SUFFIX, STOP_SUFFIX)


@dataclass(frozen=True)
class Leftover:
    """The objects of one image; ``age_s`` is that of the youngest, in seconds."""

    name: str
    objects: tuple[str, ...]
    age_s: float


def reap(access: StorageAccess, older_than_s: float, *, dry_run: bool = False) -> list[str]:
    """Remove images older than that, and return the names of what was removed.

    Looked at are the storage itself and the collections of nodes in it. An image is known by the
    object beside it; anything else stays. A snapshot that runs renews that every few seconds.

    :param dry_run: remove nothing.
    :raises: StorageUnavailable, WriteFailed
    """
    removed = []
    with access.opened() as storage:
        top = members(access, storage)
        nodes = [one.name for one in top if one.is_collection and _UUID.fullmatch(one.name)]
        for collection in ("", *nodes):
            content = top if not collection else members(access, storage, collection)
            old = [one for one in _images(collection, content) if one.age_s > older_than_s]
            for leftover in old:
                if not _is_ours(storage, leftover):
                    continue
                removed.append(leftover.name)
                for name in () if dry_run else leftover.objects:
                    storage.remove(name)
            if collection and not dry_run:
                remove_if_empty(access, storage, collection)
    return removed


def _images(collection: str, content: list[Member]) -> Iterator[Leftover]:
    """Yield the images of a collection: each with its objects, the manifest last."""
    objects = {one.name: one.age_s for one in content if not one.is_collection}
    stems = {
        name.removesuffix(suffix)
        for name in objects
        for suffix in _SUFFIXES
        if name.endswith(suffix)
    } | {name for name in objects if is_probe(name)}
    prefix = collection + "/" if collection else ""
    for stem in sorted(stems):
        # What says that the rest is ours goes last, so that a reaping that broke off is repeated.
        names = [stem + end for end in ("", STOP_SUFFIX, PART_SUFFIX, MANIFEST_SUFFIX)]
        there = [name for name in names if name in objects]
        yield Leftover(
            prefix + stem,
            tuple(prefix + name for name in there),
            min(objects[name] for name in there),
        )


def _is_ours(storage: Storage, leftover: Leftover) -> bool:
    """Tell whether it is a probe, or the object beside the image is a manifest or progress."""
    if is_probe(PurePosixPath(leftover.name).name):
        return True
    try:
        found = read_manifest(storage, leftover.name)
    except errors.StorageUnavailable as exc:
        LOG.warning("%(name)s stays: %(reason)s", {"name": leftover.name, "reason": exc})
        return False
    return "progress" in found or ("checksum" in found and "image_name" in found)
