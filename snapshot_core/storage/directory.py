# SPDX-License-Identifier: Apache-2.0
"""A directory as the intermediate storage: a local one, or a mounted export.

Others may write to it too, and may put a link to a disk of this machine where an object is to be.
So links are not followed below the directory, and what is no regular file is neither read nor
written.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from snapshot_core import errors
from snapshot_core.location import check_object_name
from snapshot_core.storage.base import Storage

CHUNK = 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NO_FILE = "it is a link, or no regular file: see who else can write here, and remove it"

_Entry = tuple[int, str]  # an open directory, and a name in it


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

    @contextlib.contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        """See :meth:`.Storage.local_file`.

        :raises: InvalidRequest, WriteFailed
        """
        try:
            fd = self._open(name, os.O_RDWR)
        except OSError as exc:
            raise errors.WriteFailed(
                "%s cannot be opened: %s" % (self.describe(name), exc.strerror)
            ) from exc
        try:
            # Not its name, which another file may have by the time that a program opens it.
            yield Path("/proc/%d/fd/%d" % (os.getpid(), fd))
        finally:
            os.close(fd)

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
            os.close(self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
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
        found = self._lstat(name)
        if found is None:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise errors.StorageUnavailable("%s: %s" % (self.describe(name), _NO_FILE))
        return found.st_size

    def exists(self, name: str) -> bool:
        """See :meth:`.Storage.exists`."""
        return self._lstat(name) is not None

    def _lstat(self, name: str) -> os.stat_result | None:
        try:
            with self._parent(name) as (parent, last):
                return os.stat(last, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise errors.StorageUnavailable("%s: %s" % (self.describe(name), exc)) from exc

    def make_collection(self, name: str) -> None:
        """See :meth:`.Storage.make_collection`."""
        try:
            with self._parent(name) as (parent, last):
                try:
                    os.mkdir(last, 0o700, dir_fd=parent)
                except FileExistsError:
                    found = os.stat(last, dir_fd=parent, follow_symlinks=False)
                    if not stat.S_ISDIR(found.st_mode):
                        raise
        except OSError as exc:
            raise errors.StorageUnavailable(
                "%s cannot be made: %s" % (self.describe(name), os.strerror(exc.errno or 0))
            ) from exc

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        """See :meth:`.Storage.write`."""
        try:
            with open(self._open(name, os.O_WRONLY | os.O_CREAT), "wb", buffering=0) as file:
                file.truncate()
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
                "writing %s failed: %s" % (self.describe(name), exc.strerror or exc)
            ) from exc

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Iterator[bytes]]:
        """See :meth:`.Storage.read`."""
        try:
            fd = self._open(name, os.O_RDONLY)
        except OSError as exc:
            raise errors.StorageUnavailable("%s: %s" % (self.describe(name), exc)) from exc
        try:
            yield self._chunks(name, fd)
        finally:
            os.close(fd)

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
            with self._parent(name) as old, self._parent(new_name) as new:
                _rename_exclusively(old, new)
        except FileExistsError as exc:
            raise errors.InvalidRequest(
                "%s appeared meanwhile and is not overwritten" % self.describe(new_name)
            ) from exc
        except OSError as exc:
            raise errors.WriteFailed(
                "%s could not be given its name: %s" % (self.describe(new_name), exc)
            ) from exc
        try:
            self._sync_parent(new_name)
        except BaseException as exc:
            self.discard(new_name)
            if isinstance(exc, OSError):
                raise errors.WriteFailed(
                    "the directory of %s could not be synced: %s" % (self.describe(new_name), exc)
                ) from exc
            raise

    def _sync_parent(self, name: str) -> None:
        with self._parent(name) as (parent, _last):
            os.fsync(parent)

    def remove(self, name: str) -> None:
        """See :meth:`.Storage.remove`."""
        try:
            with contextlib.suppress(FileNotFoundError), self._parent(name) as entry:
                _unlink(entry)
        except OSError as exc:
            raise errors.WriteFailed(
                "%s cannot be removed: %s" % (self.describe(name), exc)
            ) from exc

    @contextlib.contextmanager
    def _parent(self, name: str) -> Iterator[_Entry]:
        """Open the directory that the object ``name`` is in; yield that, and its name there."""
        *collections, last = check_object_name(name).removesuffix("/").split("/")
        fd = os.open(self._directory, _DIRECTORY)
        try:
            for collection in collections:
                outer, fd = fd, os.open(collection, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(outer)
            yield fd, last
        finally:
            os.close(fd)

    def _open(self, name: str, flags: int) -> int:
        with self._parent(name) as (parent, last):
            try:
                # O_NONBLOCK: a FIFO would wait for its other end
                fd = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=parent)
            except OSError as exc:
                if exc.errno != errno.ELOOP:
                    raise
                raise OSError(errno.ELOOP, _NO_FILE) from exc
        found = os.fstat(fd)
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if not stat.S_ISREG(found.st_mode) or (writes and found.st_nlink > 1):
            os.close(fd)
            raise OSError(errno.EINVAL, _NO_FILE)
        return fd


def _rename_exclusively(old: _Entry, new: _Entry) -> None:
    (old_parent, old_name), (new_parent, new_name) = old, new
    parents = {"src_dir_fd": old_parent, "dst_dir_fd": new_parent}
    try:
        os.link(old_name, new_name, **parents, follow_symlinks=False)
    except OSError as exc:
        # link(2), BUGS: over NFS it may have been made, and only the answer to that was lost
        if not _is_same_file(old, new):
            # vfat and exfat, on a stick for example, know no hard links
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            with contextlib.suppress(FileNotFoundError):
                os.stat(new_name, dir_fd=new_parent, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name) from exc
            os.rename(old_name, new_name, **parents)
            return
    try:
        _unlink(old)
    except BaseException:
        _unlink(new)
        raise


def _unlink(entry: _Entry) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(entry[1], dir_fd=entry[0])


def _is_same_file(one: _Entry, other: _Entry) -> bool:
    with contextlib.suppress(OSError):
        first, second = (
            os.stat(name, dir_fd=parent, follow_symlinks=False) for parent, name in (one, other)
        )
        return os.path.samestat(first, second)
    return False
