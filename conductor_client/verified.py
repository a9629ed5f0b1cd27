# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image on their way to their place, verified before the last of them leaves."""

import hashlib
from collections.abc import Iterator

from conductor_client import errors
from snapshot_core.encryption import PrivateKey, decrypted
from snapshot_core.progress import Meter
from snapshot_core.storage.base import Storage


class VerifiedImage:
    """An image in a storage, of which size and sha512 are known.

    Iterating reads it, and holds the last block back until size and digest are right, so that
    nobody who is sent these bytes ever has the whole of a wrong image: Glance for one makes an
    image active at the end of the request. ``len()`` is the size: what is sent carries it.
    Iterating again reads again, for a client that repeats a request.

    :ivar is_sent: the last block was handed out.
    :param key: decrypts an image that is encrypted in the storage.
    """

    def __init__(
        self, storage: Storage, name: str, size: int, sha512: str, *,
        meter: Meter | None = None, key: PrivateKey | None = None,
    ) -> None:  # fmt: skip
        self.size = size
        self.sha512 = sha512
        self._storage = storage
        self._name = name
        self._meter = meter or Meter(None)
        self._key = key
        self.is_sent = False

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes]:
        digest = hashlib.sha512()
        held, seen = b"", 0
        with self._storage.read(self._name) as chunks:
            for chunk in filter(None, self._decrypted(chunks)):  # else none would be held back
                digest.update(chunk)
                seen += len(chunk)
                if seen > self.size:
                    break
                if held:
                    yield held
                self._meter.done(len(held), len(held))
                held = chunk
        self._check(seen, digest.hexdigest())
        self.is_sent = True
        yield held
        self._meter.done(len(held), len(held))

    def _decrypted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        if self._key is None:
            return chunks
        return decrypted(chunks, self._key, self._storage.describe(self._name))

    def _check(self, seen: int, sha512: str) -> None:
        where = self._storage.describe(self._name)
        if seen != self.size:
            raise errors.StorageMismatch(where, "%d bytes" % self.size, "%d bytes or more" % seen)
        if sha512 != self.sha512:
            raise errors.StorageMismatch(where, "sha512 " + self.sha512, "sha512 " + sha512)
