# SPDX-License-Identifier: Apache-2.0
"""Show a part of the disk to programs, as a loop device that nothing can write through."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ipa_snapshot.devices.file_systems.base import View
from snapshot_core import process

_GONE_TIMEOUT_S = 5


@contextlib.contextmanager
def loop_device(
    path: str, start: int = 0, size: int | None = None, *, sector_size: int = 512,
    read_only: bool = True,
) -> Iterator[str]:  # fmt: skip
    """Attach a range of a device or a file to a loop device and yield its path.

    :param start: the first byte; ``size`` in bytes, by default all that follows.
    :raises: process.ProgramFailed, OSError
    """
    argv = ["losetup", "--find", "--show", "--offset", str(start)]
    argv += ["--sector-size", str(sector_size)]
    argv += [] if size is None else ["--sizelimit", str(size)]
    argv += ["--read-only"] if read_only else []
    device = process.run(*argv, path).strip()
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        process.run("losetup", "--detach", device)
        raise
    try:
        # Detached while it is open, it goes with its last user, however we may end.
        process.run("losetup", "--detach", device)
        yield device
    finally:
        os.close(fd)
        _await_gone(device)


@contextlib.contextmanager
def partition_view(path: str, start: int, size: int) -> Iterator[View]:
    """Show a partition read-only.

    :raises: process.ProgramFailed, OSError
    """
    with loop_device(path, start, size) as device:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            shown = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
        if shown != size:
            raise OSError("%s shows %d bytes of %d" % (device, shown, size))
        yield View(device, size)


def _await_gone(device: str) -> None:
    # udev may have it open for a moment; nobody is harmed if that lasts
    backing = Path("/sys/block", Path(device).name, "loop/backing_file")
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while backing.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
