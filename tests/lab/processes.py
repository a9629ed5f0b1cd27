# SPDX-License-Identifier: Apache-2.0
"""Start a server, wait until it answers, and take it away with all its children."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence

import psutil


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether any HTTP answer, an error too, comes from ``url``; certificates are not checked."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except OSError:
        return False


class Server:
    """A child process in a PID namespace of its own, so that none of its children outlives it.

    It also dies with the thread that started it (so start it from one that lasts), so that a
    killed test run leaves nothing.

    :param name: what messages call it.
    :param log: the file that gets what it prints.
    :param own_log: the file that it writes itself, if it does.
    :param unshare: further options of unshare(1), such as ``--mount-proc``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: pathlib.Path,
        env: Mapping[str, str] | None = None,
        *,
        own_log: pathlib.Path | None = None,
        unshare: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.own_log = own_log
        self._env = env
        self._unshare = list(unshare)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], bool], timeout_s: float = 30) -> None:
        """Start it and return once ``ready`` says so.

        :raises: RuntimeError with the log's last lines when it ends or stays silent.
        """
        # Found here, as a test may give the server a PATH without them.
        setpriv, unshare = (shutil.which(name) or name for name in ("setpriv", "unshare"))
        cage = [setpriv, "--pdeathsig", "KILL", unshare, "--pid", "--fork", "--kill-child"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*cage, *self._unshare, "--", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
            )
        try:
            self._await(ready, timeout_s)
        except BaseException:
            self.kill()
            raise

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The server's own process id as seen from here."""
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run; its log: {self.log}")
        return int(psutil.Process(self._process.pid).children()[0].pid)

    def stop(self, grace_s: float = 5) -> None:
        """Ask it to end, and kill it when it does not within ``grace_s``."""
        self._signal(signal.SIGTERM)
        try:
            self._wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and all its children at once, as a power cut does; return when they are gone."""
        # The kernel lets the first process of a PID namespace go last,
        # and unshare waits for it: when that has ended, all have.
        self._signal(signal.SIGKILL)
        try:
            self._wait(10)
        except subprocess.TimeoutExpired as exc:
            raise RuntimeError(f"{self.name} does not die; its log: {self.log}") from exc

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of its logs."""
        text = []
        for log in (self.log, self.own_log):
            if log is not None and log.exists():
                text += log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(text)

    def _await(self, ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise RuntimeError(f"{self.name} ended at once; its log:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.name} did not answer within {timeout_s} s; its log:\n{self.tail()}"
                )
            time.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            return
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            children = psutil.Process(self._process.pid).children()
            # Before it forks, unshare is alone and can be signalled itself.
            target = children[0].pid if children else self._process.pid
            os.kill(target, number)

    def _wait(self, timeout_s: float) -> None:
        if self._process is not None:
            self._process.wait(timeout_s)
