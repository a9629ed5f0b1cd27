# SPDX-License-Identifier: Apache-2.0
"""A mount and a PID namespace in which a disk is shown as a file that is not a plain copy of it.

All that such a file takes (a tmpfs of limited size, servers, a FUSE mount, mounts of what is in it)
lives there, and ends with us, however we may end.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from snapshot_core import process

_MEMORY = 1024 * process.MIB
_READY_TIMEOUT_S = 10
_FIRST = "cat"


@dataclass(frozen=True)
class Namespace:
    """A namespace, and the tmpfs in it.

    :param inside: begins the command line of a program that is to see the namespace's mounts.
    :param root: the tmpfs as seen from outside.
    :param directory: the same as seen from inside.
    """

    inside: tuple[str, ...]
    root: Path
    directory: str


@contextlib.contextmanager
def open_namespace(store: int) -> Iterator[Namespace]:
    """Make a namespace with a tmpfs of ``store`` bytes.

    :raises: process.ProgramFailed, OSError where none can be made.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ipa-snapshot-overlay-"))
        keeper = stack.enter_context(
            process.background(
                "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                "--kill-child", _FIRST,
            )
        )  # fmt: skip
        first = _first_process(keeper)
        inside = ("nsenter", "--target", str(first), "--mount", "--pid", "--")
        process.run(
            *inside, "mount", "-t", "tmpfs", "-o", "size=%d,mode=700" % store, "tmpfs", directory,
        )  # fmt: skip
        yield Namespace(inside, Path("/proc/%d/root%s" % (first, directory)), directory)


@contextlib.contextmanager
def show_disk(namespace: Namespace, size: int, *source: str) -> Iterator[Path]:
    """Show what an NBD server serves as the file ``disk`` of the tmpfs, and yield its path.

    :param source: how nbdfuse comes to the server: its last arguments.
    :raises: process.ProgramFailed, OSError
    """
    disk = namespace.root / "disk"
    disk.touch()
    serving = process.background(
        *namespace.inside, "env", "TMPDIR=" + namespace.directory,
        "nbdfuse", "-s", namespace.directory + "/disk", *source,
        memory=_MEMORY,
    )  # fmt: skip
    with serving:
        await_ready(lambda: disk.stat().st_size == size, "nbdfuse")
        yield disk


def await_ready(ready: Callable[[], bool], name: str) -> None:
    """Wait until a program that was started is ready.

    :raises: OSError when it takes longer than ten seconds.
    """
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError, psutil.Error):
            if ready():
                return
        if time.monotonic() > deadline:
            raise OSError("%s does not start" % name)
        time.sleep(0.02)


def _first_process(keeper: int) -> int:
    found: list[psutil.Process] = []

    def is_ready() -> bool:
        # unshare makes the mounts private after the fork. Before that, what is mounted there is
        # mounted here too.
        found[:] = [one for one in psutil.Process(keeper).children() if one.name() == _FIRST]
        return bool(found)

    await_ready(is_ready, "unshare")
    return found[0].pid
