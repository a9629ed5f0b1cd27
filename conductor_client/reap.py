# SPDX-License-Identifier: Apache-2.0
"""Remove what nobody fetched from the intermediate storage, once it is old enough.

That is an image that waits for its upload to be resumed, or what an abort left of one when it cut
the machine's power. A manifest can tell when its image is old enough; else the caller says it.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from oslo_log import log

from conductor_client import errors
from conductor_client.access import StorageAccess
from conductor_client.collection import Member, is_probe, members, remove_if_empty
from conductor_client.ramdisk_step import read_manifest
from snapshot_core.location import MANIFEST_SUFFIX, PART_SUFFIX, STOP_SUFFIX
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The names that the step and the other side give by themselves: nobody else's are such.
_GENERATED = re.compile(r"([0-9a-f]{32}|%s-snapshot)\.(qcow2|raw)" % _UUID.pattern)
_UNITS_S = {"m": 60, "h": 3600, "d": 24 * 3600}
_SUFFIXES = (MANIFEST_SUFFIX, PART_SUFFIX, STOP_SUFFIX)


@dataclass(frozen=True)
class Leftover:
    """The objects of one image; ``age_s`` is that of the youngest, in seconds."""

    name: str
    objects: tuple[str, ...]
    age_s: float


def parse_age(text: str) -> int:
    """Return the seconds that an argument such as ``30m``, ``12h`` or ``7d`` means."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if not found:
        raise argparse.ArgumentTypeError("%r is no age: expected 30m, 12h or 7d" % text)
    return int(found[1]) * _UNITS_S[found[2]]


def reap(access: StorageAccess, older_than_s: float, *, dry_run: bool = False) -> list[str]:
    """Remove images older than that or than their manifests say, and return their names.

    Looked at are the storage itself and the collections of nodes in it. An image is known by the
    object beside it, or by a name that is one of ours; anything else stays. A snapshot that runs
    renews that object every few seconds. A node's collection that is empty goes once it was not
    changed for that time.

    :param dry_run: remove nothing.
    :raises: StorageUnavailable, WriteFailed
    """
    removed = []
    with access.opened() as storage:
        top = members(access, storage)
        ages_s = {
            one.name: one.age_s for one in top if one.is_collection and _UUID.fullmatch(one.name)
        }
        for collection in ("", *ages_s):
            content = top if not collection else members(access, storage, collection)
            for leftover in _images(collection, content):
                if not _is_due(storage, leftover, older_than_s):
                    continue
                removed.append(leftover.name)
                for name in () if dry_run else leftover.objects:
                    storage.remove(name)
            # A young one may belong to a snapshot that waits for its turn.
            if collection and ages_s[collection] > older_than_s and not dry_run:
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
    } | {name for name in objects if is_probe(name) or _GENERATED.fullmatch(name)}
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


def _is_due(storage: Storage, leftover: Leftover, older_than_s: float) -> bool:
    """Tell whether it is ours, and old enough."""
    is_old = leftover.age_s > older_than_s
    name = PurePosixPath(leftover.name).name
    if is_old and (is_probe(name) or _GENERATED.fullmatch(name)):
        return True
    try:
        found = read_manifest(storage, leftover.name)
    except errors.StorageUnavailable as exc:
        LOG.warning("%(name)s stays: %(reason)s", {"name": leftover.name, "reason": exc})
        return False
    is_ours = "progress" in found or ("checksum" in found and "image_name" in found)
    return is_ours and (is_old or _has_expired(found, leftover.age_s))


def _has_expired(manifest: Mapping[str, Any], age_s: float) -> bool:
    keep_s = manifest.get("keep_s")
    return type(keep_s) is int and age_s > keep_s
