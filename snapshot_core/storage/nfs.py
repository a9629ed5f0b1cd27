# SPDX-License-Identifier: Apache-2.0
"""An NFS export as the intermediate storage: mounted for as long as it is needed."""

import contextlib
from collections.abc import Iterator
from urllib import parse

from snapshot_core import mounts
from snapshot_core.location import Location
from snapshot_core.storage.directory import DirectoryStorage

# hard: a server that is away for a moment must not make a silently short image; an interrupt
# and the agent's end still get through. nosuid, nodev, noexec: the export is only a store.
_OPTIONS = ("rw", "hard", "nosuid", "nodev", "noexec", "noatime")


@contextlib.contextmanager
def mounted_export(location: Location) -> Iterator[DirectoryStorage]:
    """Mount the export that ``location`` names and yield it as a storage.

    :raises: StorageUnavailable when it cannot be mounted.
    """
    port = parse.urlsplit(str(location)).port
    host = location.host.removesuffix(":%s" % port) if port else location.host
    options = [*_OPTIONS, *(["port=%d" % port] if port else [])]
    source = "%s:%s" % (host, location.path)
    # Each object was synced when it was written: an image that was published is there.
    with mounts.mounted("nfs", source, options, is_synced=True) as directory:
        yield DirectoryStorage(directory, str(location))
