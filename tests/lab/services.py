# SPDX-License-Identifier: Apache-2.0
"""What the laboratory's servers have in common: a state directory, a URL, and a ``with``."""

import abc
import contextlib
import pathlib
import tempfile
from typing import Self

from tests.lab import processes


class Service(abc.ABC):
    """A server that runs while the context lasts, and answers at ``url`` from its beginning.

    :param name: what messages and the temporary directory call it.
    :param url: where it answers.
    :param probe: what to append to ``url`` to ask whether it answers.
    :param state: a directory to keep; else a temporary one that goes with the context.
    """

    start_timeout_s = 60.0

    def __init__(
        self, name: str, url: str, *, probe: str = "", state: pathlib.Path | None = None
    ) -> None:
        self.name = name
        self.url = url
        self._probe = url + probe
        self._kept_state = state
        self._state: pathlib.Path | None = None
        self._server: processes.Server | None = None
        self._stack = contextlib.ExitStack()

    @property
    def state(self) -> pathlib.Path:
        """The directory with its configuration and its logs."""
        if self._state is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._state

    @property
    def pid(self) -> int:
        """Its process id as seen from here; its children are below it."""
        if self._server is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._server.pid

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._state = self._kept_state or pathlib.Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=f"lab-{self.name}-"))
            )
            self._server = self._prepare()
            stack.callback(self._server.kill)
            self._server.start(lambda: processes.answers(self._probe), self.start_timeout_s)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        """End it and its children at once, as a power cut does, even in mid-transfer."""
        if self._server is not None:
            self._server.kill()

    def start_again(self) -> None:
        """Start it as it was before :meth:`kill`; from a thread that lasts as long as it."""
        if self._server is not None:
            self._server.start(lambda: processes.answers(self._probe), self.start_timeout_s)

    @abc.abstractmethod
    def _prepare(self) -> processes.Server:
        """Write its configuration below ``state``, and say how to start it."""
