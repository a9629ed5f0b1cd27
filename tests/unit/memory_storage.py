# SPDX-License-Identifier: Apache-2.0
"""An intermediate storage in memory, for tests that need no other."""

import contextlib
from collections.abc import Iterable, Iterator

from snapshot_core import errors
from snapshot_core.storage.base import Storage


class MemoryStorage(Storage):
    """Objects are the entries of ``objects``; reading yields blocks of ``block`` bytes."""

    def __init__(self, objects: dict[str, bytes] | None = None, block: int = 4) -> None:
        self.objects = {} if objects is None else objects
        self.block = block

    def describe(self, name: str) -> str:
        return "memory:%s" % name

    def check(self) -> None:
        """Nothing can be wrong with a dictionary."""

    def create(self, name: str) -> None:
        if name in self.objects:
            raise errors.InvalidRequest("%s exists" % self.describe(name))
        self.objects[name] = b""

    def size(self, name: str) -> int | None:
        return len(self.objects[name]) if name in self.objects else None

    def make_collection(self, name: str) -> None:
        """A dictionary has no collections to make."""

    def write(self, name: str, chunks: Iterable[bytes], length: int) -> None:
        self.objects[name] = b"".join(chunks)

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Iterator[bytes]]:
        if name not in self.objects:
            raise errors.StorageUnavailable("there is no %s" % self.describe(name))
        data = self.objects[name]
        yield (data[at : at + self.block] for at in range(0, len(data), self.block))

    def rename(self, name: str, new_name: str) -> None:
        if new_name in self.objects:
            raise errors.InvalidRequest("%s exists" % self.describe(new_name))
        self.objects[new_name] = self.objects.pop(name)

    def remove(self, name: str) -> None:
        self.objects.pop(name, None)
