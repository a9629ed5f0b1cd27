# SPDX-License-Identifier: Apache-2.0
"""An agent without a machine: the real command executor and API, and our extension."""

from types import SimpleNamespace
from typing import Any

import werkzeug.test

# The options of the agent must be known before its modules are imported.
import ironic_python_agent.config  # noqa: F401 # isort: skip
from ironic_python_agent.api.app import Application
from ironic_python_agent.extensions import base
from oslo_config import cfg

from ipa_snapshot.extension.snapshot import SnapshotExtension


class AgentWithoutMachine(base.ExecuteCommandMixin):
    """What the extension and the API need of an IronicPythonAgent, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.heartbeats = 0
        self.extension = SnapshotExtension(self)
        self.ext_mgr = {"snapshot": SimpleNamespace(obj=self.extension)}

    def force_heartbeat(self) -> None:
        self.heartbeats += 1

    def validate_agent_token(self, token: str | None) -> bool:
        return token == "t0ken"

    def get_command_result(self, command_id: str) -> Any:
        return self.command_results[command_id]

    def client(self) -> werkzeug.test.Client:
        """Return a client of the agent's real REST API."""
        return werkzeug.test.Client(Application(self, cfg.CONF))
