# SPDX-License-Identifier: Apache-2.0
"""What a writer is, and how it is found and chosen."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, cast

import stevedore
from oslo_log import log
from stevedore.exception import NoMatches

from ipa_snapshot import errors
from ipa_snapshot.devices.source import Source
from ipa_snapshot.devices.used_map import UsedMap
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.encryption import PublicKey, encrypted, encrypted_size
from snapshot_core.image_options import ImageOptions
from snapshot_core.location import Location
from snapshot_core.progress import Meter
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

NAMESPACE = "ipa_snapshot.writers"
AUTO = "auto"
DEFAULT = "stream"


@dataclass(frozen=True)
class Destination:
    """Where an image is to go: the claimed object ``part`` of an open ``storage``.

    Most writers need :meth:`write` alone. ``location``, ``credentials`` and ``trust`` say how to
    reach the same storage by other means, a mount for example.

    :ivar encrypt_for: who alone is to be able to read the image.
    """

    storage: Storage
    part: str
    location: Location
    credentials: Credentials | None
    trust: Trust
    encrypt_for: PublicKey | None = None

    def write(self, chunks: Iterable[bytes], length: int | None) -> None:
        """Store an image of these ``chunks``; ``length`` is their size, if it is known.

        :raises: WriteFailed, StorageUnavailable
        """
        if self.encrypt_for is not None:
            chunks = encrypted(chunks, self.encrypt_for)
            length = None if length is None else encrypted_size(length)
        self.storage.write(self.part, chunks, length)


@dataclass(frozen=True)
class Written:
    """What a writer stored; sizes in bytes.

    ``size`` and ``sha512``, a hexadecimal digest, are of the image as it was on this side, before
    it was encrypted. A writer
    that knows the file systems tells by ``used_map`` what it took for used.
    """

    size: int
    sha512: str
    disk_format: str
    compression: str
    bytes_read: int
    bytes_sent: int
    used_map: UsedMap | None = None


class Writer(ABC):
    """Makes an image of a source and stores it under the part name that it is given.

    A writer neither confirms nor publishes nor cleans up in the storage: its caller does.
    """

    schemes: ClassVar[frozenset[str]]
    """The schemes of the storage URLs that the writer can write to."""

    passes_bytes: ClassVar[bool] = False
    """Whether all is read by the source's own methods and goes through :meth:`Destination.write`.

    So sectors may be lost and noted, and the image may be encrypted.
    """

    verifies_always: ClassVar[bool] = False
    """Whether it cannot be told to leave a server's certificate unverified."""

    @abstractmethod
    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """Store the image of ``source`` and return what was stored.

        :raises: ReadFailed, WriteFailed, StorageUnavailable, NotEnoughMemory
        """


def names() -> list[str]:
    """Return the names of the writers that are installed."""
    return sorted(stevedore.ExtensionManager(NAMESPACE).names())


def check_name(name: object, scheme: str) -> str:
    """Return ``name`` if it is ``auto`` or that of a writer for URLs of this ``scheme``.

    :raises: InvalidRequest
    """
    if not isinstance(name, str) or name not in (AUTO, *names()):
        raise errors.InvalidRequest(
            "unknown writer %r: expected one of %s" % (name, ", ".join([AUTO, *names()]))
        )
    if name != AUTO and scheme not in _load(name).schemes:
        raise errors.InvalidRequest(
            "the writer %r takes %s URLs, and the storage URL is %s"
            % (name, ", ".join(sorted(_load(name).schemes)), scheme)
        )
    return name


def check_options(name: str, bad_sectors: str, insecure: bool, encrypts: bool) -> None:
    """Raise unless the writer of this name, or ``auto``, can do what is asked of it.

    :raises: InvalidRequest
    """
    writer = _load(DEFAULT if name == AUTO else name)
    if bad_sectors != "fail" and not writer.passes_bytes:
        raise errors.InvalidRequest(
            "the writer %s cannot go on past bad sectors: use the writer %s" % (name, DEFAULT)
        )
    if encrypts and not writer.passes_bytes:
        raise errors.InvalidRequest(
            "the writer %s cannot encrypt: use the writer %s" % (name, DEFAULT)
        )
    if insecure and writer.verifies_always:
        raise errors.InvalidRequest(
            "the writer %s always verifies the server's certificate: give its authority as the CA "
            "file, or use the writer %s" % (name, DEFAULT)
        )


def load(name: str, scheme: str) -> tuple[str, Writer]:
    """Return the writer and its name; ``auto`` is the default one."""
    if name == AUTO:
        # It takes every URL, needs little memory, and sends least.
        name = DEFAULT
        LOG.info("Writer: %(name)s, for %(scheme)s", {"name": name, "scheme": scheme})
    return name, _load(name)()


def _load(name: str) -> type[Writer]:
    try:
        manager: stevedore.DriverManager[Writer] = stevedore.DriverManager(NAMESPACE, name)
    except NoMatches as exc:
        raise errors.InvalidRequest("the writer %r cannot be loaded: %s" % (name, exc)) from exc
    return cast(type[Writer], manager.driver)
