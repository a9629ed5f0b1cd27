# SPDX-License-Identifier: Apache-2.0
"""Keep the storage's credentials out of the agent's log.

ironic-python-agent logs the arguments of every command before the command's extension sees them,
and again when a second command comes while one runs. Masking its log would have to know every
place and format. Instead the credentials are made a value that does not print itself, at the
agent's front door: ``execute_command`` of the one agent object, which its API calls.
"""

import functools
from collections.abc import Callable
from typing import Any

from ipa_snapshot import errors
from snapshot_core.credentials import Credentials

COMMAND = "snapshot.stream_image"


class HiddenAuth:
    """The ``auth`` argument, whatever it held, as a value that prints as ``<hidden>``."""

    def __init__(self, raw: object) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return "<hidden>"

    def parse(self) -> Credentials:
        """Return the credentials.

        :raises: InvalidRequest
        """
        return Credentials.parse(self._raw)


def hide_credentials(agent: Any) -> None:
    """Let the ``agent`` hide the ``auth`` argument of our command before anything else."""
    if agent is None:
        return
    execute: Callable[..., Any] = agent.execute_command

    @functools.wraps(execute)
    def execute_command(command_name: str, **arguments: Any) -> Any:
        auth = arguments.get("auth")
        # Hidden already where the agent has loaded the extension twice.
        if command_name == COMMAND and auth is not None and not isinstance(auth, HiddenAuth):
            arguments["auth"] = HiddenAuth(auth)
        return execute(command_name, **arguments)

    agent.execute_command = execute_command


def refuse_exposed_credentials(auth: object) -> None:
    """Raise InvalidRequest if the credentials came by a way that did not hide them."""
    if auth is not None and not isinstance(auth, HiddenAuth):
        raise errors.InvalidRequest(
            "the agent did not hide the credentials from its log, so they are not used: change "
            "the password, and report this with the version of ironic-python-agent"
        )
