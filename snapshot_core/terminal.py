# SPDX-License-Identifier: Apache-2.0
"""What both commands show a person: progress, results and errors, and the exit code."""

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

from oslo_config import cfg
from oslo_log import log
from tqdm import tqdm

from snapshot_core import errors
from snapshot_core.image_options import BAD_SECTORS, COMPRESSIONS, FORMATS
from snapshot_core.process import printable
from snapshot_core.progress import Progress

_LINE_INTERVAL_S = 5
INTERRUPTED = 130


class ProgressDisplay:
    """Shows progress on stderr: a bar on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._phase = ""
        self._last_line = 0.0
        self._is_gone = sys.stderr is None

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``; a terminal that is gone does not end what is going on."""
        if self._is_gone:
            return
        try:
            show = self._draw if sys.stderr.isatty() else self._print
            show(progress)
        except (OSError, ValueError):
            self._is_gone = True
        self._phase = progress.phase

    def _draw(self, progress: Progress) -> None:
        if progress.phase != self._phase or self._bar is None:
            self._close()
            # A serial console says that it has 0 columns and rows, and tqdm would show nothing.
            columns, rows = shutil.get_terminal_size()
            self._bar = tqdm(
                total=progress.bytes_total or None, desc=printable(progress.phase),
                unit="B", unit_scale=True, unit_divisor=1024, ncols=columns, nrows=rows,
            )  # fmt: skip
        self._bar.update(progress.bytes_done - self._bar.n)

    def _print(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase == self._phase and now - self._last_line < _LINE_INTERVAL_S:
            return
        self._last_line = now
        print(_line(progress), file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
            self._bar = None


def size_text(size: int) -> str:
    """Return a size in bytes as people read it: ``3.2 GiB``."""
    if size < 1024:
        return "%d B" % size
    number = tqdm.format_sizeof(size, divisor=1024).upper()
    return "%s %siB" % (number[:-1], number[-1])


def _line(progress: Progress) -> str:
    text = printable(progress.phase)
    if progress.bytes_total:
        text += ": %s of %s (%d %%)" % (
            size_text(progress.bytes_done),
            size_text(progress.bytes_total),
            100 * progress.bytes_done // progress.bytes_total,
        )
    if progress.eta_s is not None:
        text += ", %d s left" % progress.eta_s
    return text


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command of ours has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="log what happens, on stderr")


def add_storage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the intermediate storage is reached."""
    parser.add_argument(
        "--auth-file", metavar="FILE",
        help="YAML or JSON, mode 600, for the storage: username and password, and scheme if it is "
        "digest; or token",
    )  # fmt: skip
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--cacert", metavar="FILE", help="PEM file with the storage's authority")
    trust.add_argument(
        "--insecure", action="store_true", help="do not verify the storage's certificate"
    )


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which disk is meant, and what the image is to be."""
    parser.add_argument("--expected-serial", metavar="SERIAL", help="refuse any other disk")
    parser.add_argument("--expected-wwn", metavar="WWN", help="refuse any other disk")
    parser.add_argument(
        "--any-root", action="store_true",
        help="take the smallest of several possible root devices",
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="qcow2", dest="image_format")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="auto")
    parser.add_argument(
        "--bad-sectors", choices=BAD_SECTORS, default="fail",
        help="zero: go on past sectors that cannot be read, and say which they were",
    )  # fmt: skip


def image_text(name: str, result: dict[str, Any]) -> str:
    """Return the result of a snapshot as people read it."""
    facts = "%s: %s, %s, virtual size %s, %s s" % (
        name,
        result["disk_format"],
        size_text(result["size"]),
        size_text(result["virtual_size"]),
        result["elapsed_s"],
    )
    warnings = [*result["warnings"], *result.get("captured", {}).get("warnings", [])]
    return "\n".join(
        [facts, "sha512 " + result["checksum"]["value"], *("warning: %s" % one for one in warnings)]
    )


def set_up_logging(program: str, *, debug: bool) -> None:
    """Let oslo.log write to stderr: warnings, or with ``debug`` everything."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf([], project=program)
    conf.set_override("debug", debug)
    conf.set_override("use_stderr", True)
    log.setup(conf, program)
    if not debug:
        logging.getLogger().setLevel(logging.WARNING)


def seconds(text: str) -> int:
    """Return the number of seconds, above 0, that an argument is."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError("%r is not a number of seconds above 0" % text)
    return int(text)


def run(program: str, action: Callable[[], dict[str, Any] | str], show: Callable[[Any], str],
        *, as_json: bool) -> int:  # fmt: skip
    """Run a command's ``action`` and print its result, or its error as one line.

    :param show: makes the text of the result for people.
    :returns: the exit code.
    """
    try:
        with ends_interrupt():
            result = action()
    except errors.SnapshotError as exc:
        if as_json:
            _write(sys.stdout, json.dumps({"error": {"type": exc.word, "message": str(exc)}}))
        message = " ".join(printable(str(exc)).split())
        _write(sys.stderr, "%s: %s: %s" % (program, exc.word, message))
        return 1
    except KeyboardInterrupt:
        _write(sys.stderr, "%s: interrupted" % program)
        return INTERRUPTED
    failure = _write(sys.stdout, json.dumps(result) if as_json else printable(show(result)))
    if failure:
        _write(sys.stderr, "%s: done, but the result cannot be written: %s" % (program, failure))
    return int(failure is not None)


def _write(stream: TextIO | None, text: str) -> str | None:
    """Write a line, whatever the stream's encoding; return why it cannot be written."""
    if stream is None:
        return "it is closed"
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError) as exc:
        # What is left in its buffer would fail again when Python ends.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return str(exc)
    return None


@contextlib.contextmanager
def ends_interrupt() -> Iterator[None]:
    """Let a service manager's stop, and a connection that is lost, clean up as Ctrl-C does."""

    def interrupt(signum: int, _frame: object) -> None:
        # A lost connection is told twice, by the shell and by the kernel: the second must end
        # neither the clean-up nor its programs, which inherit this.
        signal.signal(signum, signal.SIG_IGN)
        raise KeyboardInterrupt

    with contextlib.ExitStack() as undo:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup has it
                undo.callback(signal.signal, signum, signal.signal(signum, interrupt))
        yield
