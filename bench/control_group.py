# SPDX-License-Identifier: Apache-2.0
"""A control group for one run: what it cost, how fast it may read, and who is in it.

Everything that a method starts is in the group, also the daemon that mount.davfs leaves: a process
tree would lose that one.
"""

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class ControlGroup(ABC):
    """A group that was made for one run, in one directory or one for each controller."""

    def __init__(self, directories: dict[str, Path]) -> None:
        self._directories = directories
        for directory in set(directories.values()):
            directory.mkdir()
        # opened here: a child that has forked should do as little as it can
        self._doors = [
            os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            for directory in set(directories.values())
        ]

    def enter(self) -> None:
        """Put the calling process into the group; for ``preexec_fn``."""
        for door in self._doors:
            os.write(door, b"0")

    def processes(self) -> list[int]:
        """Return the ids of the processes that are in the group now."""
        return [int(word) for word in self._read("cpu", "cgroup.procs").split()]

    def remove(self) -> None:
        """Kill what still runs in the group, and remove it."""
        while running := self.processes():
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for door in self._doors:
            os.close(door)
        for directory in set(self._directories.values()):
            directory.rmdir()

    @abstractmethod
    def cpu_s(self) -> float:
        """Return the CPU seconds, user's and system's, of all that ran in the group."""

    @abstractmethod
    def memory(self) -> int:
        """Return the bytes of memory in use: anonymous and in a tmpfs, without the page cache."""

    @abstractmethod
    def limit_reads(self, device: str, rate: int) -> None:
        """Let the group read from the block device at most ``rate`` bytes a second."""

    def _read(self, controller: str, name: str) -> str:
        return (self._directories[controller] / name).read_text()

    def _memory_stat(self, *rows: str) -> int:
        found = dict(line.split() for line in self._read("memory", "memory.stat").splitlines())
        return sum(int(found[row]) for row in rows)


class _Version1(ControlGroup):
    """Control groups of version 1: one hierarchy for each controller."""

    def __init__(self, name: str) -> None:
        names = {"cpu": "cpuacct", "memory": "memory", "io": "blkio"}
        super().__init__({key: _ROOT / value / name for key, value in names.items()})

    def cpu_s(self) -> float:
        return int(self._read("cpu", "cpuacct.usage")) / 1e9

    def memory(self) -> int:
        return self._memory_stat("total_rss", "total_shmem")

    def limit_reads(self, device: str, rate: int) -> None:
        limits = self._directories["io"] / "blkio.throttle.read_bps_device"
        limits.write_text("%s %d" % (_number(device), rate))


class _Version2(ControlGroup):
    """Control groups of version 2: one hierarchy for all."""

    def __init__(self, name: str) -> None:
        (_ROOT / "cgroup.subtree_control").write_text("+cpu +io +memory")
        super().__init__(dict.fromkeys(("cpu", "memory", "io"), _ROOT / name))

    def cpu_s(self) -> float:
        found = dict(line.split() for line in self._read("cpu", "cpu.stat").splitlines())
        return int(found["usage_usec"]) / 1e6

    def memory(self) -> int:
        return self._memory_stat("anon", "shmem")

    def limit_reads(self, device: str, rate: int) -> None:
        limits = self._directories["io"] / "io.max"
        limits.write_text("%s rbps=%d" % (_number(device), rate))


@contextlib.contextmanager
def control_group() -> Iterator[ControlGroup]:
    """Make a control group, and remove it with all that still runs in it.

    :raises: OSError where the kernel, or a container, offers neither version.
    """
    kind = _Version2 if (_ROOT / "cgroup.controllers").exists() else _Version1
    group = kind("ipa-snapshot-bench-%d" % os.getpid())
    try:
        yield group
    finally:
        group.remove()


def _number(device: str) -> str:
    return Path("/sys/class/block", Path(device).name, "dev").read_text().strip()
