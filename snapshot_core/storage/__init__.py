# SPDX-License-Identifier: Apache-2.0
"""The intermediate storage: where an image rests between the disk and Glance."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from snapshot_core.storage.base import Storage
from snapshot_core.storage.directory import DirectoryStorage
from snapshot_core.storage.nfs import mounted_export
from snapshot_core.storage.webdav import WebdavStorage


@contextlib.contextmanager
def open_storage(
    location: Location, credentials: Credentials | None = None, trust: Trust | None = None
) -> Iterator[Storage]:
    """Yield the storage at ``location``.

    :raises: StorageUnavailable when an export cannot be mounted; for WebDAV nothing is sent yet.
    """
    match location.scheme:
        case "file":
            yield DirectoryStorage(Path(location.path), str(location))
        case "nfs":
            with mounted_export(location) as storage:
                yield storage
        case _:
            with WebdavStorage(location, credentials, trust or Trust()) as storage:
                yield storage
