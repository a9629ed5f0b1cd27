# SPDX-License-Identifier: Apache-2.0
"""A real WsgiDAV on 127.0.0.1, as small deployments use it for the intermediate storage."""

import json
import pathlib
import sys
from typing import Any

from tests.lab import processes, services


class WsgiDav(services.Service):
    """Serve ``directory`` as ``url`` while the context lasts.

    WsgiDAV hands a body on in blocks of 8 KiB as it comes: nothing is kept in memory.
    An upload that breaks off leaves its beginning under its final name.

    :param digest: ask for Digest authentication, and not for Basic.
    """

    def __init__(
        self, directory: pathlib.Path, username: str | None = None, password: str | None = None,
        *, digest: bool = False,
    ) -> None:  # fmt: skip
        self.port = processes.free_port()
        super().__init__("wsgidav", f"http://127.0.0.1:{self.port}/snapshots")
        self.directory = pathlib.Path(directory)
        self._digest = digest
        self._user = (username, password) if username is not None else None

    @property
    def log(self) -> pathlib.Path:
        """What the server printed: one line a request."""
        return self.state / "wsgidav.log"

    def _prepare(self) -> processes.Server:
        config = self.state / "wsgidav.json"
        config.write_text(json.dumps(self._config()))
        program = pathlib.Path(sys.executable).with_name("wsgidav")
        return processes.Server("WsgiDAV", [str(program), "--config", str(config)], self.log)

    def _config(self) -> dict[str, Any]:
        users = {self._user[0]: {"password": self._user[1]}} if self._user else True
        return {
            "server": "cheroot",
            "host": "127.0.0.1",
            "port": self.port,
            "provider_mapping": {"/snapshots": str(self.directory)},
            "simple_dc": {"user_mapping": {"*": users}},
            "http_authenticator": {
                "accept_basic": not self._digest,
                "accept_digest": self._digest,
                "default_to_digest": self._digest,
            },
            "lock_storage": True,
            "verbose": 3,
        }
