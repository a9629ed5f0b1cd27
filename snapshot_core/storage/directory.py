# SPDX-License-Identifier: Apache-2.0
"""A directory as the intermediate storage: a local one, or a mounted export."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from snapshot_core import errors
from snapshot_core.location import check_object_name
from snapshot_core.storage.base import Storage

CHUNK = 1024 * 1024


class DirectoryStorage(Storage):
    """Objects are the files of one ``directory``; ``label`` is what messages call it."""

    def __init__(self, directory: Path, label: str) -> None:
        self._directory = directory
        self._label = label

    def local_path(self, name: str) -> Path:
        """See :meth:`.Storage.local_path`.

        :raises: InvalidRequest
        """
        return self._directory / check_object_name(name)

    def describe(self, name: str) -> str:
        """See :meth:`.Storage.describe`."""
        return "%s%s%s" % (self._label, "" if self._label.endswith("/") else "/", name)

    def check(self) -> None:
        """See :meth:`.Storage.check`."""
        try:
            is_there = self._directory.is_dir()
        except OSError as exc:
            raise errors.StorageUnavailable("%s: %s" % (self._label, exc)) from exc
        if not is_there:
            raise errors.StorageUnavailable("%s is not an existing directory" % self._label)

    def create(self, name: str) -> None:
        """See :meth:`.Storage.create`."""
        try:
            os.close(os.open(self.local_path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError as exc:
            raise errors.InvalidRequest(
                "%s exists: it is being written now, or was left by a snapshot that was cut "
                "short; choose another image name, or remove it" % self.describe(name)
            ) from exc
        except OSError as exc:
            raise errors.StorageUnavailable(
                "%s cannot be written to: %s" % (self._label, os.strerror(exc.errno or 0))
            ) from exc

    def size(self, name: str) -> int | None:
        """See :meth:`.Storage.size`."""
        try:
            return self.local_path(name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise errors.StorageUnavailable("%s: %s" % (self.describe(name), exc)) from exc

    def make_collection(self, name: str) -> None:
        """See :meth:`.Storage.make_collection`."""
        try:
            self.local_path(name).mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise errors.StorageUnavailable(
                "%s cannot be made: %s" % (self.describe(name), os.strerror(exc.errno or 0))
            ) from exc

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        """See :meth:`.Storage.write`."""
        try:
            with open(self.local_path(name), "wb", buffering=0, opener=_open_privately) as file:
                for chunk in chunks:
                    if chunk == bytes(len(chunk)):
                        file.seek(len(chunk), os.SEEK_CUR)  # a hole, as in the disk
                        continue
                    view = memoryview(chunk)
                    while view:
                        view = view[file.write(view) :]
                file.truncate()  # behind a hole at the end too
                os.fsync(file.fileno())
        except OSError as exc:
            raise errors.WriteFailed(
                "writing %s failed: %s" % (self.describe(name), os.strerror(exc.errno or 0))
            ) from exc

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Iterator[bytes]]:
        """See :meth:`.Storage.read`."""
        try:
            file = self.local_path(name).open("rb", buffering=0)
        except OSError as exc:
            raise errors.StorageUnavailable("%s: %s" % (self.describe(name), exc)) from exc
        with file:
            yield self._chunks(name, file.fileno())

    def _chunks(self, name: str, fd: int) -> Iterator[bytes]:
        while True:
            try:
                chunk = os.read(fd, CHUNK)
            except OSError as exc:
                raise errors.StorageUnavailable("%s: %s" % (self.describe(name), exc)) from exc
            if not chunk:
                return
            yield chunk

    def rename(self, name: str, new_name: str) -> None:
        """See :meth:`.Storage.rename`."""
        try:
            self._rename_exclusively(self.local_path(name), self.local_path(new_name))
        except FileExistsError as exc:
            raise errors.InvalidRequest(
                "%s appeared meanwhile and is not overwritten" % self.describe(new_name)
            ) from exc
        except OSError as exc:
            raise errors.WriteFailed(
                "%s could not be given its name: %s" % (self.describe(new_name), exc)
            ) from exc
        try:
            self._sync_directory()
        except OSError as exc:
            self.discard(new_name)
            raise errors.WriteFailed(
                "the directory of %s could not be synced: %s" % (self.describe(new_name), exc)
            ) from exc

    @staticmethod
    def _rename_exclusively(old: Path, new: Path) -> None:
        try:
            os.link(old, new)
        except OSError as exc:
            # link(2), BUGS: over NFS it may have been made, and only the answer to that was lost
            if not _is_same_file(old, new):
                # vfat and exfat, on a stick for example, know no hard links
                if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                if new.exists():
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from exc
                old.rename(new)
                return
        try:
            old.unlink(missing_ok=True)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """See :meth:`.Storage.remove`."""
        try:
            self.local_path(name).unlink(missing_ok=True)
        except OSError as exc:
            raise errors.WriteFailed(
                "%s cannot be removed: %s" % (self.describe(name), exc)
            ) from exc


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_same_file(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False
