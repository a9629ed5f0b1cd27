# SPDX-License-Identifier: Apache-2.0
"""Open the disk: read-only, claimed, and refused if anyone else may change it."""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from ipa_snapshot import errors
from ipa_snapshot.devices import sectors
from ipa_snapshot.devices.sectors import LostSectors

CHUNK = 4 * 1024 * 1024
_BLKGETSIZE64 = 0x80081272  # linux/fs.h: size in bytes, as a u64
_BLKSSZGET = 0x1268  # linux/fs.h: logical sector size, as an int


@dataclass(frozen=True)
class Source:
    """An open disk or image file; ``size`` in bytes, a multiple of 512.

    It is read through its methods, or by programs through ``path``.

    :param direct_fd: the disk past the page cache: it is read once, and memory is scarce.
    :param lost: where it is not None, unreadable sectors are noted there, and are zeros.
    """

    path: str
    fd: int
    direct_fd: int
    size: int
    logical_sector_size: int
    lost: LostSectors | None = None

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the disk, or a part of it, in order and in chunks of at most ``CHUNK`` bytes.

        :raises: ReadFailed with the offset.
        """
        offset, end = start, self.size if length is None else start + length
        view = memoryview(mmap.mmap(-1, CHUNK))
        while offset < end:
            # through the page cache, which reads ahead
            count = self._read(view[: min(CHUNK, end - offset)], offset, (self.fd,))
            yield bytes(view[:count])
            offset += count

    def read_into(self, view: memoryview, offset: int) -> int:
        """Read at ``offset`` as much as comes at once, a byte at least; return how much it was.

        Past the page cache, if offset, length and memory are aligned to sectors.

        :raises: ReadFailed with the offset.
        """
        return self._read(view, offset, (self.direct_fd, self.fd))

    def _read(self, view: memoryview, offset: int, descriptors: tuple[int, ...]) -> int:
        try:
            count = sectors.read_into(
                view, offset, descriptors, self.logical_sector_size, self.lost
            )
        except sectors.TooManyLost as exc:
            raise errors.ReadFailed(
                "%s: %s: it is failing as a whole, rescue it with a tool made for that"
                % (self.path, exc.strerror)
            ) from exc
        except OSError as exc:
            raise self.read_error(offset, exc) from exc
        if count == 0:
            raise self.end_error(offset)
        return count

    def read_error(self, offset: int, cause: OSError) -> errors.ReadFailed:
        """Return the error for a read that failed at ``offset``."""
        return errors.ReadFailed(
            "%s cannot be read at offset %d: %s; see the kernel's log, and replace the disk"
            % (self.path, offset, os.strerror(cause.errno or 0))
        )

    def end_error(self, offset: int) -> errors.ReadFailed:
        """Return the error for a disk that ends at ``offset``, before its size."""
        return errors.ReadFailed(
            "%s ends at offset %d, expected %d bytes: it became smaller, or vanished"
            % (self.path, offset, self.size)
        )


@contextlib.contextmanager
def open_source(path: str, lost: LostSectors | None = None) -> Iterator[Source]:
    """Open a block device or an image file for reading, and keep it claimed.

    A block device is opened with O_EXCL: the kernel refuses that while the device or a partition
    of it is mounted, used as swap or held by another driver, in whichever mount namespace, and
    refuses mounts of it as long as we hold it.

    :param lost: takes unreadable sectors, which otherwise are an error.
    :raises: DeviceNotFound, DeviceInUse, InvalidRequest
    """
    with contextlib.ExitStack() as stack:
        fd = _open(path)
        stack.callback(os.close, fd)
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            _refuse_busy_loops(path, fd)
        size, sector = _measure(path, fd, is_block=stat.S_ISBLK(mode))
        direct_fd = _open_directly(path, fd)
        stack.callback(os.close, direct_fd)
        yield Source(path, fd, direct_fd, size, sector, lost)


def _open(path: str) -> int:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
            raise errors.DeviceNotFound("%s is neither a block device nor an image file" % path)
        exclusive = os.O_EXCL if stat.S_ISBLK(mode) else 0
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | exclusive)
    except (OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno == errno.EBUSY:
            raise errors.DeviceInUse(
                "%s is in use%s: unmount it and stop what holds it, or boot the machine into a "
                "ramdisk" % (path, _users(path))
            ) from exc
        raise errors.DeviceNotFound("%s cannot be opened: %s" % (path, exc)) from exc


def _open_directly(path: str, fd: int) -> int:
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    return os.dup(fd)


def _measure(path: str, fd: int, *, is_block: bool) -> tuple[int, int]:
    """Return the size and that of a logical sector, in bytes."""
    if is_block:
        size = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
        sector = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
    else:
        size, sector = os.fstat(fd).st_size, 512
    if size == 0:
        raise errors.DeviceNotFound("%s is empty: there is nothing to take a snapshot of" % path)
    if size % 512:
        raise errors.InvalidRequest(
            "%s has %d bytes, which is not a multiple of 512: this is not the image of a disk, "
            "or not all of it" % (path, size)
        )
    return size, sector


def _refuse_busy_loops(path: str, fd: int) -> None:
    # An image file cannot be claimed itself, but it may be mounted through a loop device.
    identity = (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found = os.stat(backing.read_text().rstrip("\n"))
            if (found.st_dev, found.st_ino) != identity:
                continue
            loop = "/dev/%s" % backing.parts[3]
            try:
                os.close(os.open(loop, os.O_RDONLY | os.O_EXCL))
            except OSError as exc:
                raise errors.DeviceInUse(
                    "%s is in use through %s%s: unmount that first" % (path, loop, _users(loop))
                ) from exc


def _users(path: str) -> str:
    """Say who uses the device, as far as that can be seen from here."""
    base = Path("/sys/class/block", Path(os.path.realpath(path)).name)
    family = {base.name, *(part.parent.name for part in base.glob("*/partition"))}
    mounts = [
        "mounted on %s" % mount.mountpoint
        for mount in psutil.disk_partitions(all=True)
        if Path(mount.device).name in family
    ]
    holders = [
        "held by %s" % holder.name
        for level in ("", "*/")
        for holder in base.glob(level + "holders/*")
    ]
    swaps = ["used as swap" for row in _swaps() if Path(row).name in family]
    users = mounts + holders + swaps
    return " (%s)" % ", ".join(users) if users else ""


def _swaps() -> list[str]:
    with contextlib.suppress(OSError):
        return [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return []
