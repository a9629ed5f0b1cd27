# SPDX-License-Identifier: Apache-2.0
"""Start programs: the only place that does.

Every program is an argument list (never a shell line), runs in the C locale and has a limit on
its memory, because most of them read a disk that a tenant wrote.
"""

import contextlib
import os
import selectors
import subprocess  # and nowhere else  # nosec B404
import tempfile
import time
from collections.abc import Callable, Iterator

import psutil
from oslo_concurrency import processutils
from oslo_log import log

LOG = log.getLogger(__name__)

MIB = 1024 * 1024
DEFAULT_MEMORY = 512 * MIB
_ERROR_TAIL = 2000
_LONGEST_LINE = 16 * MIB
_PIECE = 64 * 1024
_VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
_KILLED_S = 10  # one that is stuck in the kernel ends later, or never


class ProgramFailed(Exception):
    """A program could not be started, failed, or did not end in time."""

    def __init__(self, program: str, reason: str) -> None:
        """Keep the name of the ``program`` and its own ``reason`` (its last words on stderr)."""
        self.program = program
        self.reason = printable(reason).strip()[-_ERROR_TAIL:] or "no message"
        super().__init__("%s failed: %s" % (program, self.reason))


def printable(text: str) -> str:
    """Return ``text`` without control characters, which a hostile disk can put into a message."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def run(*argv: str, memory: int = DEFAULT_MEMORY, timeout_s: int | None = 60) -> str:
    """Run a program to its end and return what it printed.

    :param argv: the program and its arguments.
    :param memory: the address space that it may use, in bytes.
    :param timeout_s: how long it may take, in seconds; ``None`` where that depends on a
        network or a disk of any size.
    :raises: ProgramFailed
    """
    try:
        out, _err = processutils.execute(
            *_limited(argv, memory),
            env_variables=_environment(),
            timeout=timeout_s,
            on_completion=_end,
        )
    except processutils.ProcessExecutionError as exc:
        said = exc.stderr or exc.stdout or "exit status %s" % exc.exit_code
        raise ProgramFailed(argv[0], str(said)) from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ProgramFailed(argv[0], str(exc)) from exc
    return str(out)


def follow(*argv: str, on_output: Callable[[str], None], memory: int) -> None:
    """Run a program to its end and hand on what it prints, piece by piece, as it prints it.

    Whatever ends the wait, an exception of ``on_output`` or an interrupt included, the program
    is stopped first.

    :raises: ProgramFailed
    """
    with _started(argv, memory) as child:
        for piece in _pieces(child):
            on_output(piece)


def lines(
    *argv: str, memory: int = DEFAULT_MEMORY, timeout_s: float = 60, silent: bool = False
) -> Iterator[str]:
    """Run a program and yield what it prints line by line, however much that is.

    It is stopped when the caller does not want the rest.

    :param silent: whether it fails, too, if it says anything on stderr.
    :raises: ProgramFailed, also after its last line.
    """
    deadline = time.monotonic() + timeout_s
    rest = ""
    try:
        with _started(argv, memory, silent=silent) as child:
            for piece in _pieces(child, deadline):
                *whole, rest = (rest + piece).split("\n")
                yield from whole
                if len(rest) > _LONGEST_LINE:
                    raise ProgramFailed(argv[0], "it prints a line that does not end")
    except TimeoutError as exc:
        raise ProgramFailed(argv[0], "it took longer than %g s" % timeout_s) from exc
    if rest:
        yield rest


@contextlib.contextmanager
def background(*argv: str, memory: int = DEFAULT_MEMORY) -> Iterator[int]:
    """Keep a program running and yield its process id; it is killed in the end.

    Its stdin is a pipe that ends with us, so that ``cat`` (or what waits for it) does too. One
    that ended before is a warning: what it served fails, and does not say why.

    :raises: ProgramFailed when it cannot be started.
    """
    LOG.debug("Running %(argv)s", {"argv": argv})
    try:
        child = subprocess.Popen(  # a list, and no shell  # nosec B603
            _limited(argv, memory),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
    except OSError as exc:
        raise ProgramFailed(argv[0], str(exc)) from exc
    with child:
        try:
            yield child.pid
        finally:
            if child.poll() is not None:
                LOG.warning(
                    "%(program)s ended before its time, with %(status)d",
                    {"program": argv, "status": child.returncode},
                )
            child.kill()


@contextlib.contextmanager
def _started(
    argv: tuple[str, ...], memory: int, *, silent: bool = False
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a program whose output is read; it ends well, or is stopped, or it raises."""
    LOG.debug("Running %(argv)s", {"argv": argv})
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(  # a list, and no shell  # nosec B603
                _limited(argv, memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(),
            )
        except OSError as exc:
            raise ProgramFailed(argv[0], str(exc)) from exc
        with child:
            try:
                yield child
            except BaseException:
                child.kill()
                raise
        size = errors.seek(0, os.SEEK_END)
        if child.returncode != 0 or (silent and size):
            errors.seek(max(0, size - _ERROR_TAIL * 4))
            said = errors.read().decode(errors="replace")
            raise ProgramFailed(argv[0], said or "exit status %d" % child.returncode)


def _pieces(child: "subprocess.Popen[bytes]", deadline: float | None = None) -> Iterator[str]:
    assert child.stdout is not None  # Popen was given a pipe  # noqa: S101  # nosec B101
    output = child.stdout.fileno()
    # Not poll(): the eventlet of Ironic 26.1 takes it away.
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            left_s = None if deadline is None else deadline - time.monotonic()
            # select() does not look at the time while there is something to read
            if (left_s is not None and left_s <= 0) or not selector.select(left_s):
                raise TimeoutError
            piece = os.read(output, _PIECE)
            if not piece:
                return
            yield piece.decode(errors="replace")


def _end(child: "subprocess.Popen[bytes]") -> None:
    # processutils 7.6 leaves a program running that took too long, or that we were interrupted at;
    # with its helpers, because a mount.davfs without its mount(8) goes on and mounts.
    if child.poll() is None:
        helpers = psutil.Process(child.pid).children(recursive=True)
        child.kill()
        for helper in helpers:
            with contextlib.suppress(psutil.NoSuchProcess):
                helper.kill()
        psutil.wait_procs(helpers, timeout=_KILLED_S)
        child.wait()


def _limited(argv: tuple[str, ...], memory: int) -> list[str]:
    # util-linux's prlimit, and not oslo.concurrency's wrapper: that one starts a Python first.
    return ["prlimit", "--as=%d" % memory, "--", *argv]


def _environment() -> dict[str, str]:
    # No more than a program needs: an OS_PASSWORD is nothing for one that reads a tenant's disk,
    # and davfs2 would send the storage's credentials through a proxy.
    kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    # glibc reserves 64 MiB for the heap of each thread: those of many were more than the limit on
    # address space, and qemu-nbd aborted when it could not start one more.
    return {**kept, "LC_ALL": "C", "MALLOC_ARENA_MAX": "2"}
