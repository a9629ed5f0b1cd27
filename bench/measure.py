# SPDX-License-Identifier: Apache-2.0
"""Run programs, joined by pipes, in a control group, and measure what that costs."""

import contextlib
import hashlib
import mmap
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from bench.control_group import ControlGroup, control_group
from bench.machine_disk import MIB, MachineDisk, pieces
from bench.results import Rates, Run
from ipa_snapshot.devices.extents import Extents

Command = Sequence[object]

DISK_RATE = 500 * 10**6
LINK_RATE = 10**9 / 8
_SAMPLE_MS = 50
_GRACE_S = 20
_ALIGNMENT = 4096


class MethodFailed(Exception):
    """A program of a method failed, or something of it is left."""


class Runner:
    """Starts what a method consists of."""

    def __init__(self, group: ControlGroup, scratch: Path) -> None:
        self.memory = 0  # the most that was seen, in bytes
        self._group = group
        # Not to proxies; and what is left by a program that is killed goes with us.
        kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        self._env = {**kept, "LC_ALL": "C", "TMPDIR": str(scratch)}

    def pipe(self, *commands: Command) -> str:
        """Run programs, each reading what the one before prints; return what the last prints.

        :raises: MethodFailed if one fails.
        """
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(tempfile.TemporaryFile("w+"))
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            children: list[subprocess.Popen[bytes]] = []
            for command in commands:
                is_last = command is commands[-1]
                stdin = children[-1].stdout if children else subprocess.DEVNULL
                stdout = out if is_last else subprocess.PIPE
                children.append(self._start(command, stdin, stdout, errors))
                if len(children) > 1:
                    # only its reader holds it now, so that the writer sees that one's end
                    (children[-2].stdout or out).close()
            try:
                self._await(children)
            except BaseException:
                _interrupt(children)
                raise
            errors.seek(0)
            for command, child in zip(commands, children, strict=True):
                if child.returncode != 0:
                    raise MethodFailed("%s ended with %d: %s"
                                       % (command[0], child.returncode, errors.read()))  # fmt: skip
            out.seek(0)
            return out.read()

    @contextlib.contextmanager
    def background(self, *command: object) -> Iterator["subprocess.Popen[bytes]"]:
        """Keep a program running for the time of a ``with``."""
        child = self._start(command, subprocess.DEVNULL, subprocess.DEVNULL, subprocess.DEVNULL)
        try:
            yield child
        finally:
            child.terminate()
            child.wait()

    def _start(
        self, command: Command, stdin: "IO[bytes] | int | None", stdout: "IO[str] | int",
        stderr: "IO[str] | int",
    ) -> "subprocess.Popen[bytes]":  # fmt: skip
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=stdin, stdout=stdout, stderr=stderr, env=self._env,
            preexec_fn=self._group.enter,  # noqa: PLW1509 - no other thread runs here
            process_group=0,  # a terminal's interrupt is for us, and theirs comes from us, once
        )  # fmt: skip

    def _await(self, children: "list[subprocess.Popen[bytes]]") -> None:
        for child in children:
            # not a sleep: its end would be seen late, and a thread would be counted as work
            ended = os.pidfd_open(child.pid)
            try:
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                while not poll.poll(_SAMPLE_MS):
                    self.memory = max(self.memory, self._group.memory())
                child.wait()
            finally:
                os.close(ended)


def _interrupt(children: "list[subprocess.Popen[bytes]]") -> None:
    """Ask programs to end, and give them time to clean up; whatever stays, the group kills."""
    for child in children:
        child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _GRACE_S
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0, deadline - time.monotonic()))


def measured(
    method: Callable[[Runner], None], disk: MachineDisk, stored: Sequence[Path], scratch: Path,
    *, capped: bool,
) -> Run:  # fmt: skip
    """Run a method once, with nothing of the disk in the kernel's cache.

    :param stored: the directories that images go to, empty now.
    :raises: MethodFailed
    """
    os.sync()  # what others left to be written would be charged to this one
    disk.forget()
    with control_group() as group:
        if capped:
            cap_disk(group, disk)
        runner = Runner(group, scratch)
        read, sent = disk.bytes_read(), _sent()
        began = time.monotonic()
        method(runner)
        wall_s = time.monotonic() - began
        if left := group.processes():
            raise MethodFailed("processes are left behind: %s" % left)
        read, sent = disk.bytes_read() - read, _sent() - sent
        size = sum(path.stat().st_size for where in stored for path in where.glob("*"))
        # A method that only asks whether the server is there has sent less than it stored.
        return Run(wall_s, group.cpu_s(), runner.memory, read, max(sent, size))


def cap_disk(group: ControlGroup, disk: MachineDisk) -> None:
    """Hold what a control group reads from the disk to ``DISK_RATE``."""
    for device in disk.devices:
        group.limit_reads(device, DISK_RATE)


@contextlib.contextmanager
def link(*, capped: bool) -> Iterator[None]:
    """Make the loopback interface of this namespace a link of 1 Gbit/s, if it is to be capped."""
    if not capped:
        yield
        return
    queue = ["dev", "lo", "root"]
    tbf = ["tbf", "rate", "%dbit" % (8 * LINK_RATE), "burst", "1mb", "latency", "400ms"]
    subprocess.run(["tc", "qdisc", "add", *queue, *tbf], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", *queue], check=True)


def sha512_s() -> float:
    """Return the CPU seconds that the sha512 of 10^9 bytes takes here, in blocks of 512 KiB."""
    block = os.urandom(512 * 1024)
    count = 10**9 // len(block)
    sha512 = hashlib.sha512()
    began = time.thread_time()
    for _ in range(count):
        sha512.update(block)
    return (time.thread_time() - began) * 10**9 / (count * len(block))


def imposed_rates() -> Rates:
    """Return the rates that a capped run has."""
    return Rates(DISK_RATE, LINK_RATE, imposed=True)


def measured_rates(disk: MachineDisk, extents: Extents, url: str, scratch: Path) -> Rates:
    """Measure what disk and link can do alone: 1 GiB that is used, and 1 GiB of zeros."""
    disk.forget()
    with control_group() as group:
        runner = Runner(group, scratch)
        began = time.monotonic()
        runner.pipe(["dd", "if=/dev/zero", "bs=1M", "count=1024"],
                    ["curl", "-sSf", "--upload-file", "-", url + "/zeros"])  # fmt: skip
        link_rate = 1024 * MIB / (time.monotonic() - began)
    return Rates(_disk_rate(disk.device, extents), link_rate, imposed=False)


def _disk_rate(device: str, extents: Extents) -> float:
    size, began = 0, time.monotonic()
    whole = extents.aligned(_ALIGNMENT, extents.end // _ALIGNMENT * _ALIGNMENT)
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 4 * MIB) as memory:
        for start, length in pieces(whole):
            size += os.preadv(fd, [memoryview(memory)[:length]], start)
            if size >= 1024 * MIB:
                break
    os.close(fd)
    return size / (time.monotonic() - began)


def _sent() -> int:
    """Return what the loopback interface has carried, headers too."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    (row,) = (line.split() for line in lines if line.split()[0] == "lo:")
    return int(row[9])
