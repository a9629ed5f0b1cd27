# SPDX-License-Identifier: Apache-2.0
"""A real Ironic: API and conductor in one process, with SQLite, and hardware that is made up."""

import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import subprocess
from typing import Any, Literal

import openstack
import openstack.connection

from tests.lab import processes, services
from tests.lab.glance import Glance
from tests.lab.installation import Installation
from tests.lab.keystone import Keystone
from tests.lab.releases import RELEASES

_REPOSITORY = pathlib.Path(__file__).parents[2]
DEFAULT_VENV = RELEASES.ironic_venv
# With an Ironic that has the specification's own states: see integrations/ironic.
SNAPSHOT_VENV = _REPOSITORY / ".venv-ironic-snapshot"

_CONFIG = """\
[DEFAULT]
debug = true
# Not all the options' values at each start: its log's last lines are to say what happened.
log_options = false
log_file = {state}/ironic.log
state_path = {state}
tempdir = {state}/tmp
# A killed conductor is followed by itself, not by another one.
host = lab-conductor
my_ip = 127.0.0.1
rpc_transport = none
transport_url = fake:/
auth_strategy = {auth}
http_basic_auth_user_file = {state}/users
notification_level = info
enabled_hardware_types = fake-hardware
enabled_bios_interfaces = no-bios
enabled_boot_interfaces = fake
enabled_console_interfaces = no-console
enabled_deploy_interfaces = direct
enabled_firmware_interfaces = no-firmware
enabled_inspect_interfaces = no-inspect
enabled_management_interfaces = fake
enabled_network_interfaces = noop
enabled_power_interfaces = fake
enabled_raid_interfaces = no-raid
enabled_rescue_interfaces = no-rescue
enabled_storage_interfaces = noop
enabled_vendor_interfaces = no-vendor
[api]
host_ip = 127.0.0.1
port = {port}
# An agent sends a heartbeat every 0.3 to 0.6 of this; each may move its service on.
ramdisk_heartbeat_timeout = 5
[conductor]
automated_clean = false
heartbeat_interval = 5
check_provision_state_interval = 2
[database]
connection = sqlite:///{state}/ironic.sqlite
sqlite_synchronous = false
[agent]
certificates_path = {state}/certificates
# Collecting a ramdisk's logs takes the agent longer than most steps of a test.
deploy_logs_collect = never
deploy_logs_local_path = {state}/ramdisk-logs
[deploy]
http_root = {state}/http
http_url = http://127.0.0.1:1
[dhcp]
dhcp_provider = none
[service_catalog]
auth_type = none
endpoint_override = {url}
[oslo_concurrency]
lock_path = {state}/lock
[oslo_messaging_notifications]
driver = log
"""
_GLANCE_CONFIG = """\
[glance]
auth_type = admin_token
endpoint = {glance_url}
endpoint_override = {glance_url}
token = {token}
"""
# What oslo.messaging's driver `log` calls its logger, with the event's type after it.
_NOTIFICATION = " oslo.messaging.notification."


@dataclasses.dataclass(frozen=True)
class Notification:
    """One of Ironic's notifications: its event, such as ``baremetal.node.provision_set.end``."""

    event: str
    payload: dict[str, Any]


class Ironic(services.Service):
    """Run Ironic while the context lasts; its database and logs lie in ``state_dir`` (kept).

    After :meth:`kill`, :meth:`start_again` brings it back with what is in the database.

    :param glance_url: the Glance of :mod:`tests.lab.glance` that the conductor is to use.
    :param auth: ``http_basic`` knows one account, of the name and the password below.
    :param extra_config: sections to append; what they say again counts.
    :param keystone: who tells who somebody is, and in whose catalog this Ironic is then; unless
        they say otherwise, clients are its administrator.
    :param venv: a virtual environment with Ironic, by default that of the selected release.
    """

    username = "lab-operator"

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        glance_url: str | None = None,
        auth: Literal["noauth", "http_basic"] = "noauth",
        *,
        extra_config: str = "",
        keystone: Keystone | None = None,
        venv: str | os.PathLike[str] = DEFAULT_VENV,
    ) -> None:
        self.port = processes.free_port()
        super().__init__(
            "ironic", f"http://127.0.0.1:{self.port}", state=pathlib.Path(state_dir), probe="/v1"
        )
        self.password = secrets.token_urlsafe(16)
        self._glance_url = glance_url
        self._auth = "keystone" if keystone else auth
        self._keystone = keystone
        self._extra_config = extra_config
        self._installation = Installation("ironic", venv)

    @property
    def log(self) -> pathlib.Path:
        """Ironic's own log, with debug messages and notifications."""
        return self.state / "ironic.log"

    def connection(self) -> openstack.connection.Connection:
        """Return a connection, whatever the environment's own OS_* variables say."""
        return openstack.connect(load_yaml_config=False, load_envvars=False, **self._cloud())

    def environment(self) -> dict[str, str]:
        """Return the OS_* variables with which any OpenStack client finds this Ironic."""
        cloud = self._cloud()
        settings = cloud.pop("auth") | cloud
        return {f"OS_{name.upper()}": value for name, value in settings.items()}

    def openstack_command(self, *arguments: object) -> list[str]:
        """Return the ``openstack`` command with these arguments; it needs :meth:`environment`."""
        return [self._installation.program("openstack"), *map(str, arguments)]

    def openstack(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run ``openstack`` with these arguments to its end, and return how it went."""
        return subprocess.run(
            self.openstack_command(*arguments),
            env={**os.environ, **self.environment()},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def version(self) -> str:
        """Return the version that is installed."""
        return self._installation.version()

    def notifications(self, node: str | None = None) -> list[Notification]:
        """Return what was notified so far, of one node (its UUID) or of all, the oldest first."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if _NOTIFICATION in line:
                # raw_decode: oslo.log appends to what is sent on an exception.
                message, _end = json.JSONDecoder().raw_decode(line[line.index("{") :])
                payload = message["payload"]["ironic_object.data"]
                if node in (None, payload.get("uuid")):
                    found.append(Notification(message["event_type"], payload))
        return found

    def _cloud(self) -> dict[str, Any]:
        if self._keystone is not None:
            return self._keystone.admin.cloud()
        cloud: dict[str, Any] = {"baremetal_endpoint_override": self.url}
        if self._auth == "http_basic":
            cloud["auth_type"] = "http_basic"
            cloud["auth"] = {"username": self.username, "password": self.password}
        elif self._glance_url is not None:
            # Glance believes the token, and an Ironic without authentication does not look at it.
            cloud["auth_type"] = "admin_token"
            cloud["auth"] = {"token": Glance.token}
            cloud["image_endpoint_override"] = self._glance_url
        else:
            cloud["auth_type"] = "none"
            cloud["auth"] = {}
        cloud["auth"]["endpoint"] = self.url
        return cloud

    def _config(self) -> str:
        text = _CONFIG.format(state=self.state, port=self.port, url=self.url, auth=self._auth)
        if self._keystone is not None:
            text += self._keystone_config(self._keystone)
        elif self._glance_url is not None:
            text += _GLANCE_CONFIG.format(glance_url=self._glance_url, token=Glance.token)
        return text + RELEASES.ironic_config + self._extra_config + "\n"

    def _keystone_config(self, keystone: Keystone) -> str:
        account = keystone.service("baremetal", self.url)
        text = account.section("keystone_authtoken") + account.section("glance")
        override = f"endpoint_override = {self._glance_url}\n" if self._glance_url else ""
        return text + override

    def _prepare(self) -> processes.Server:
        for name in ("tmp", "certificates", "http", "ramdisk-logs"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        config = self.state / "ironic.conf"
        config.touch(mode=0o600)
        config.write_text(self._config())
        self._write_users()
        database = self.state / "ironic.sqlite"
        if not database.exists():
            made = self._installation.migrated_database("ironic-dbsync", "create_schema")
            shutil.copyfile(made, database)
        command = [self._installation.program("ironic"), "--config-file", str(config)]
        env = {**os.environ, "TMPDIR": str(self.state / "tmp")}
        log = self.state / "output.log"
        return processes.Server("Ironic", command, log, env, own_log=self.log)

    def _write_users(self) -> None:
        # Ironic takes bcrypt (-B) alone.
        subprocess.run(
            ["htpasswd", "-iBc", str(self.state / "users"), self.username],
            input=self.password.encode(),
            check=True,
            capture_output=True,
        )
