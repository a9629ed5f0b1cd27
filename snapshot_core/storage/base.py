# SPDX-License-Identifier: Apache-2.0
"""What an intermediate storage can do, whichever protocol reaches it."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from oslo_log import log

from snapshot_core import errors
from snapshot_core.location import manifest_name, part_name

LOG = log.getLogger(__name__)


class Storage(ABC):
    """A flat collection of named objects.

    An image is written under its *part name* and gets its final name only when the storage
    itself has confirmed it. Errors that leave are ours: StorageUnavailable, WriteFailed,
    StorageMismatch, InvalidRequest.
    """

    @abstractmethod
    def describe(self, name: str) -> str:
        """Return where the object ``name`` is, for messages."""

    def part(self, name: str) -> str:
        """Return the name under which the image ``name`` is to be written, once it is claimed.

        It is the final one where the storage cannot rename. Then an image is not whole for as
        long as there is an object of its part name beside it.
        """
        return part_name(name)

    def local_path(self, name: str) -> Path | None:
        """Return where the object is in this machine's file systems, if it is in one."""
        return None

    def local_file(self, name: str) -> contextlib.AbstractContextManager[Path | None]:
        """Return a path for programs, of an object that exists, if there can be one.

        It is a context manager that yields it. Whoever gives the object's name to another file
        meanwhile does not turn the programs to that.

        :raises: InvalidRequest, WriteFailed
        """
        return contextlib.nullcontext()

    @abstractmethod
    def check(self) -> None:
        """Raise StorageUnavailable unless the storage answers and takes our credentials."""

    @abstractmethod
    def create(self, name: str) -> None:
        """Create the empty object ``name``.

        :raises: InvalidRequest if it exists, StorageUnavailable if nothing can be written here.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Ask the storage how many bytes the object ``name`` holds; None if there is none."""

    def exists(self, name: str) -> bool:
        """Ask the storage whether there is an object ``name``."""
        return self.size(name) is not None

    @abstractmethod
    def make_collection(self, name: str) -> None:
        """Make a collection inside of this one, if it is not there yet.

        :raises: StorageUnavailable
        """

    @abstractmethod
    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        """Store the ``chunks`` as the object ``name``; ``length`` is their size, if it is known."""

    def write_small(self, name: str, content: bytes) -> None:
        """Store the ``content`` as the object ``name``."""
        self.write(name, [content], len(content))

    @abstractmethod
    def read(self, name: str) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """Return the object's bytes, as a context manager that yields chunks."""

    @abstractmethod
    def rename(self, name: str, new_name: str) -> None:
        """Give an object another name.

        If it raises, that name is not the object's, as far as the storage tells.

        :raises: InvalidRequest if that name is taken, StorageUnavailable, WriteFailed
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the object ``name``; one that does not exist is no error."""

    def patiently(self) -> contextlib.AbstractContextManager[None]:
        """Within this, what can be asked again is, while the storage is away: hours may be lost."""
        return contextlib.nullcontext()

    def briefly(self) -> contextlib.AbstractContextManager[None]:
        """Within this, what this thread asks is soon given up if there is no answer.

        A storage that answers to come again later is asked no second time, save to remove.
        """
        return contextlib.nullcontext()

    def claim(self, name: str) -> None:
        """Make sure that ``name`` is free and can be written, and reserve it.

        :raises: InvalidRequest, StorageUnavailable
        """
        self.check()
        for taken in (name, manifest_name(name)):
            if self.exists(taken):
                raise errors.InvalidRequest(
                    "%s exists and is not overwritten: choose another name, or remove it"
                    % self.describe(taken)
                )
        self.create(part_name(name))

    def publish(self, name: str, expected: int) -> None:
        """Give the image its final name, once the storage confirms ``expected`` bytes of it.

        :raises: StorageMismatch, InvalidRequest, StorageUnavailable, WriteFailed
        """
        part = self.part(name)
        self._confirm(part, expected)
        if part == name:
            self.remove(part_name(name))
        else:
            self.rename(part, name)
            try:
                self._confirm(name, expected)
            except BaseException:
                self.discard(name)
                raise
        LOG.info(
            "Stored %(where)s: %(bytes)d bytes",
            {"where": self.describe(name), "bytes": expected},
        )

    def write_manifest(self, name: str, manifest: bytes) -> None:
        """Write the ``manifest`` beside the image ``name``, after it was published.

        :raises: InvalidRequest, StorageUnavailable, WriteFailed
        """
        target = manifest_name(name)
        if self.part(name) == name:
            self.write_small(target, manifest)
        else:
            self.write_small(part_name(name), manifest)
            self.rename(part_name(name), target)

    def abandon(self, name: str) -> None:
        """Remove what there is of the image ``name`` after it was claimed; never raise."""
        part, claim = self.part(name), part_name(name)
        # Without a claim beside it, what is left of an image would pass for a whole one.
        if self.discard(part) and claim != part:
            self.discard(claim)

    def discard(self, *names: str) -> bool:
        """Remove objects that are not wanted any more; never raise, but log what remains.

        This runs while another error is on its way, and that error is the one to tell.

        :returns: whether none remains.
        """
        removed = [self._discard(name) for name in names]
        return all(removed)

    def _discard(self, name: str) -> bool:
        try:
            with self.briefly():
                self.remove(name)
        except errors.SnapshotError as exc:
            LOG.error(
                "%(where)s may be left behind: %(reason)s",
                {"where": self.describe(name), "reason": exc},
            )
            return False
        return True

    def _confirm(self, name: str, expected: int) -> None:
        found = self.size(name)
        if found != expected:
            raise errors.StorageMismatch(
                self.describe(name), "%d bytes" % expected,
                None if found is None else "%d bytes" % found,
            )  # fmt: skip
