# SPDX-License-Identifier: Apache-2.0
"""How this side reaches the intermediate storage: its URL, account and trust, as one value."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from conductor_client import errors
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from snapshot_core.storage import open_storage
from snapshot_core.storage.base import Storage

URL_VARIABLE = "IRONIC_SNAPSHOT_STORAGE_URL"
AUTH_VARIABLE = "IRONIC_SNAPSHOT_AUTH_FILE"
CACERT_VARIABLE = "IRONIC_SNAPSHOT_CACERT"


@dataclass(frozen=True)
class StorageAccess:
    """The storage as this machine reaches it, with an account that may read and remove there."""

    location: Location
    credentials: Credentials | None = None
    trust: Trust = field(default_factory=Trust)

    @classmethod
    def of(
        cls,
        url: str | None = None,
        auth_file: str | None = None,
        cacert: str | None = None,
        *,
        insecure: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """Make one of options; what is not given is looked for in the environment.

        :raises: InvalidRequest
        """
        url = url or environment.get(URL_VARIABLE)
        if not url:
            raise errors.InvalidRequest(
                "no storage is named: give its URL, or set %s; it is the storage_url of the "
                "ramdisk's configuration, as this machine reaches it" % URL_VARIABLE
            )
        auth_file = auth_file or environment.get(AUTH_VARIABLE)
        cacert = cacert or (None if insecure else environment.get(CACERT_VARIABLE))
        return cls(
            Location.parse(url),
            Credentials.read(auth_file) if auth_file else None,
            Trust(cacert, insecure),
        )

    @contextlib.contextmanager
    def opened(self) -> Iterator[Storage]:
        """Yield the storage itself."""
        with open_storage(self.location, self.credentials, self.trust) as storage:
            yield storage
