# SPDX-License-Identifier: Apache-2.0
"""Limit the memory of processes that run, by a control group of theirs."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Iterator

_TOP = pathlib.Path("/sys/fs/cgroup")
# Of both versions: where groups are made, what limits a group, and what counts its deaths.
_VERSIONS = (
    (_TOP / "memory", "memory.limit_in_bytes", "memory.oom_control"),
    (_TOP, "memory.max", "memory.events"),
)


class Group:
    """A control group: ``killed`` tells how many of its processes had no memory left."""

    def __init__(self, path: pathlib.Path, deaths: str) -> None:
        self._path = path
        self._deaths = deaths

    @property
    def killed(self) -> int:
        """Return how many of its processes the kernel has killed."""
        lines = (self._path / self._deaths).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


@contextlib.contextmanager
def memory_limit(pids: Iterable[int], limit: int) -> Iterator[Group]:
    """Let processes, and their children to come, take so many bytes more than they have.

    :raises: OSError where groups of memory cannot be made.
    """
    path, limiting, deaths = _make()
    try:
        (path / limiting).write_text(str(limit))
        for pid in pids:
            (path / "cgroup.procs").write_text(str(pid))
        yield Group(path, deaths)
    finally:
        _remove(path)


def _make() -> tuple[pathlib.Path, str, str]:
    for top, limiting, deaths in _VERSIONS:
        path = top / ("lab-%d" % os.getpid())
        with contextlib.suppress(OSError):
            path.mkdir()
            if (path / limiting).exists():
                return path, limiting, deaths
            path.rmdir()
    raise OSError("no control groups of memory can be made here")


def _remove(path: pathlib.Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists():
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (path.parent / "cgroup.procs").write_text(pid)
        try:
            path.rmdir()
        except OSError:  # a process of it is still ending
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
