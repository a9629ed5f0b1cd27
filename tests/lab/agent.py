# SPDX-License-Identifier: Apache-2.0
"""A real ironic-python-agent, with an Ironic or without, where it cannot hurt the host."""

import dataclasses
import json
import os
import pathlib
import secrets
import sys
from collections.abc import Sequence

from tests.lab import namespaces, processes, services
from tests.lab.releases import RELEASES

_HERE = pathlib.Path(__file__).parent
_REPOSITORY = _HERE.parent.parent

_CONFIG = """\
[DEFAULT]
debug = true
log_file = {state}/agent.log
listen_host = 127.0.0.1
listen_port = {port}
advertise_host = 127.0.0.1
advertise_port = {port}
# No disk appears later.
disk_wait_attempts = 0
"""
_ALONE_CONFIG = """\
agent_token = {token}
enable_auto_tls = false
"""
_LOOKUP_CONFIG = """\
api_url = {lookup.api_url}
lookup_timeout = 30
"""
_TLS_CONFIG = """\
listen_tls = true
tls_cert_file = {cert}
tls_key_file = {key}
"""
# IPA 9.7 reads them here; neither release minds the other's words.
_OLDER_TLS_CONFIG = """\
[ssl]
cert_file = {cert}
key_file = {key}
"""


@dataclasses.dataclass(frozen=True)
class FakeDisk:
    """What the agent shall see as a disk; ``path`` is a block device, such as a loop device."""

    path: str
    size: int
    serial: str | None = None
    wwn: str | None = None
    model: str = "LABDISK"
    vendor: str | None = "LAB"
    rotational: bool = False
    by_path: str | None = None
    hctl: str | None = None
    tran: str | None = None
    logical_sectors: int = 512

    def described(self) -> dict[str, object]:
        """Return it in the words of IPA's BlockDevice."""
        words = dataclasses.asdict(self)
        words["name"] = words.pop("path")
        return words


@dataclasses.dataclass(frozen=True)
class Lookup:
    """How an agent finds its node: the Ironic to ask, and the MAC address of the node's port."""

    api_url: str
    mac: str


class Agent(services.Service):
    """Run the agent while the context lasts; it answers at ``url`` to ``token``.

    With a ``lookup`` it belongs to an Ironic, as in a ramdisk: that gives it a token which nobody
    else knows (``token`` is not used), it makes a certificate for itself, and sends heartbeats.

    :param disks: the disks that it finds; its root device rules then choose among them.
    :param tls: paths of a certificate and its key, to serve https.
    :param environment: further variables for the agent, such as a PATH with other tools.
    :param extra_config: lines for the [DEFAULT] section; other sections may follow them.
    :param lookup: the node whose ramdisk this is; that must be waiting for one already.
    """

    def __init__(
        self,
        disks: Sequence[FakeDisk],
        token: str | None = None,
        tls: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        environment: dict[str, str] | None = None,
        extra_config: str = "",
        lookup: Lookup | None = None,
    ) -> None:
        self.port = processes.free_port()
        scheme = "https" if tls or lookup else "http"
        super().__init__("agent", f"{scheme}://127.0.0.1:{self.port}", probe="/v1/status")
        self.disks = list(disks)
        # Ironic's tokens are this long, and IPA refuses shorter ones from it.
        self.token = token or secrets.token_urlsafe(32)
        self._tls = tls
        self._environment = environment or {}
        self._extra_config = extra_config
        self._lookup = lookup

    @property
    def log(self) -> pathlib.Path:
        """The agent's own log, with debug messages."""
        return self.state / "agent.log"

    @property
    def tempdir(self) -> pathlib.Path:
        """The agent's TMPDIR, empty when nothing was left behind; it goes with the context."""
        return self.state / "tmp"

    def _prepare(self) -> processes.Server:
        if not namespaces.isolated():
            raise RuntimeError(
                "an agent may take interfaces down: call tests.lab.namespaces.enter() first"
            )
        program = RELEASES.agent_venv / "bin/ironic-python-agent"
        if not program.exists():
            raise RuntimeError(f"no {program}: run tools/setup.sh {RELEASES.setup}")
        self.tempdir.mkdir()
        config = self.state / "agent.conf"
        config.write_text(self._config())
        described = self.state / "disks.json"
        described.write_text(json.dumps([disk.described() for disk in self.disks]))
        command = [sys.executable, "-m", "tests.lab.cell"]
        command += [str(program), "--config-file", str(config)]
        env = {
            **os.environ,
            "PYTHONPATH": f"{_HERE / 'fake_disks'}:{_REPOSITORY}",
            "LAB_FAKE_DISKS": str(described),
            # A machine's temporary files go with its power: so do this agent's.
            "TMPDIR": str(self.tempdir),
            **({"LAB_FAKE_MAC": self._lookup.mac} if self._lookup else {}),
            **self._environment,
        }
        return processes.Server(
            "the agent",
            command,
            self.state / "output.log",
            env,
            own_log=self.log,
            unshare=["--mount", "--mount-proc"],
        )

    def _config(self) -> str:
        text = _CONFIG.format(state=self.state, port=self.port)
        if self._lookup:
            text += _LOOKUP_CONFIG.format(lookup=self._lookup)
        else:
            text += _ALONE_CONFIG.format(token=self.token)
        if self._tls:
            text += _TLS_CONFIG.format(cert=self._tls[0], key=self._tls[1])
        text += self._extra_config + "\n"
        if self._tls:
            text += _OLDER_TLS_CONFIG.format(cert=self._tls[0], key=self._tls[1])
        return text
