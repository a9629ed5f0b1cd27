# SPDX-License-Identifier: Apache-2.0
"""Map a disk, and see that this changes nothing of it."""

import hashlib
from pathlib import Path

from ipa_snapshot.devices.partitions import Partition
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import UsedMap, map_disk


def map_of(path: Path | str) -> UsedMap:
    """Map it, and see that nothing of it changes."""
    before = _digest(path)
    with open_source(str(path)) as source:
        found = map_disk(source)
        assert found.extents.end <= source.size
        assert found.extents.union(found.unmapped) == found.extents
    assert _digest(path) == before
    return found


def _digest(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def only(found: UsedMap) -> Partition:
    """Return the only partition."""
    (partition,) = found.partitions
    return partition
