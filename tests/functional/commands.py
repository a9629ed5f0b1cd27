# SPDX-License-Identifier: Apache-2.0
"""Run the project's commands as a user does, and keep what they print."""

import json
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

_BIN = pathlib.Path(sys.executable).parent


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return what it printed as JSON."""
        answer: dict[str, Any] = json.loads(self.out)
        return answer

    @property
    def error(self) -> str:
        """Return its error, which must be the one line that it says after the progress."""
        line = self.err.strip().splitlines()[-1]
        assert line.startswith(("ipa-snapshot: ", "ironic-snapshot: ")), self.err
        assert "Traceback" not in self.err
        return line


def path(program: str) -> str:
    """Return the path of one of the project's commands."""
    return str(_BIN / program)


def start(
    program: str, *arguments: object, env: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start one of the project's commands."""
    return subprocess.Popen(
        [path(program), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def finish(command: "subprocess.Popen[str]") -> Outcome:
    """Wait for a started command."""
    out, err = command.communicate(timeout=300)
    return Outcome(command.returncode, out, err)


def run(program: str, *arguments: object, env: dict[str, str] | None = None) -> Outcome:
    """Run one of the project's commands to its end."""
    return finish(start(program, *arguments, env=env))
