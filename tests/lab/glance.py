# SPDX-License-Identifier: Apache-2.0
"""A real Glance under uwsgi with a file store and SQLite.

Unless it is given a real Keystone, a fake of Keystone's middleware lets clients in.
"""

import os
import pathlib
import shutil
from typing import Any

import openstack
import openstack.connection
import yaml

from tests.lab import processes, services
from tests.lab.installation import Installation
from tests.lab.keystone import Keystone

_REPOSITORY = pathlib.Path(__file__).parents[2]
DEFAULT_VENV = _REPOSITORY / ".venv-glance"

_CONFIG = """\
[DEFAULT]
log_file = {state}/glance.log
enabled_backends = fast:file
# Without the brackets creating an image answers 500.
enabled_import_methods = [glance-direct]
transport_url = fake:/
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {state}/images
[os_glance_staging_store]
filesystem_store_datadir = {state}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {state}/tasks
[database]
connection = sqlite:///{state}/glance.sqlite?timeout=60
[paste_deploy]
config_file = {state}/paste.ini
[oslo_concurrency]
lock_path = {state}/lock
"""
_PASTE = """\
[composite:glance-api]
paste.composite_factory = glance.api:root_app_factory
/: api
[composite:api]
paste.composite_factory = glance.api:pipeline_factory
default = versionnegotiation {auth} rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:fakeauth]
paste.filter_factory = tests.lab.glance_auth:factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""
_KEYSTONE_CONFIG = """\
[DEFAULT]
use_keystone_limits = true
{authtoken}
# A token that is revoked is to be refused at once, as one that has expired is by the cache too.
token_cache_time = -1
{limit}
endpoint_service_type = image
endpoint_region_name = {region}
"""
# Each project may have this much, unless the limits of a project say otherwise.
_LIMITS = {
    "image_size_total": 100_000,  # MiB
    "image_stage_total": 100_000,
    "image_count_total": 1000,
    "image_count_uploading": 1000,
}
# fmt: off
_UWSGI = (
    "--master", "--die-on-term", "--need-app", "--lazy-apps", "--enable-threads", "--threads", "8",
    "--buffer-size", "65535", "--module", "tests.lab.glance_app",
    # uwsgi closes every connection after its answer, and clients should hear of it.
    "--add-header", "Connection: close",
)
# fmt: on


class Glance(services.Service):
    """Run Glance while the context lasts; its state and data lie in ``state_dir`` (kept).

    A client that goes away in mid-upload leaves its image ``queued`` and no data, with
    Content-Length as with chunks; chunks must be smaller than uwsgi's limit of 1 MiB (500).

    :param venv: the virtual environment of glance-requirements.txt.
    :param keystone: who tells who somebody is and how much each project may have, and in whose
        catalog this Glance is then; unless they say otherwise, clients are its administrator.
    :param stall_timeout_s: how long a client may pause in mid-upload; uwsgi's own default is 4.
    """

    #: What the fake middleware believes: a user, a project and its roles.
    token = "lab-user:lab-project:admin,member,reader"

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        venv: str | os.PathLike[str] = DEFAULT_VENV,
        *,
        keystone: Keystone | None = None,
        stall_timeout_s: int = 20,
    ) -> None:
        self.port = processes.free_port()
        super().__init__(
            "glance",
            f"http://127.0.0.1:{self.port}",
            probe="/versions",
            state=pathlib.Path(state_dir),
        )
        self._keystone = keystone
        self._installation = Installation("glance", venv)
        self._stall_timeout_s = stall_timeout_s

    @property
    def log(self) -> pathlib.Path:
        """Glance's own log; what uwsgi says is next to it, in uwsgi.log."""
        return self.state / "glance.log"

    @property
    def images(self) -> pathlib.Path:
        """The directory of the file store: one file an image, named by its uuid."""
        return self.state / "images"

    def environment(self) -> dict[str, str]:
        """Return the OS_* variables with which any OpenStack client finds this Glance."""
        if self._keystone is not None:
            return self._keystone.project_admin.environment()
        return {
            "OS_AUTH_TYPE": "admin_token",
            "OS_ENDPOINT": self.url,
            "OS_TOKEN": self.token,
            "OS_IMAGE_ENDPOINT_OVERRIDE": self.url,
        }

    def clouds_yaml(self, path: str | os.PathLike[str], cloud: str = "lab") -> pathlib.Path:
        """Write a clouds.yaml with this Glance as ``cloud``."""
        path = pathlib.Path(path)
        path.write_text(yaml.safe_dump({"clouds": {cloud: self._cloud()}}))
        path.chmod(0o600)
        return path

    def connection(self, url: str | None = None) -> openstack.connection.Connection:
        """Return a connection, whatever the environment's own OS_* variables say.

        :param url: that of a proxy before this Glance.
        """
        return openstack.connect(load_yaml_config=False, load_envvars=False, **self._cloud(url))

    def _cloud(self, url: str | None = None) -> dict[str, Any]:
        if self._keystone is not None:
            override = {"image_endpoint_override": url} if url else {}
            return {**self._keystone.project_admin.cloud(), **override}
        return {
            "auth_type": "admin_token",
            "auth": {"endpoint": url or self.url, "token": self.token},
            "image_endpoint_override": url or self.url,
        }

    def _write_configuration(self) -> None:
        for name in ("images", "staging", "tasks", "lock"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        config = self.state / "glance-api.conf"
        config.touch(mode=0o600)
        config.write_text(_CONFIG.format(state=self.state) + self._keystone_config())
        auth = "authtoken context" if self._keystone else "fakeauth"
        (self.state / "paste.ini").write_text(_PASTE.format(auth=auth))
        if not (self.state / "glance.sqlite").exists():
            made = self._installation.migrated_database("glance-manage", "db_sync")
            shutil.copyfile(made, self.state / "glance.sqlite")

    def _keystone_config(self) -> str:
        if self._keystone is None:
            return ""
        account = self._keystone.service("image", self.url, _LIMITS)
        return _KEYSTONE_CONFIG.format(
            authtoken=account.section("keystone_authtoken"),
            limit=self._keystone.admin.section("oslo_limit"),
            region=self._keystone.region,
        )

    def _prepare(self) -> processes.Server:
        self._write_configuration()
        command = [self._installation.program("uwsgi"), "--http-socket", f"127.0.0.1:{self.port}"]
        command += [*_UWSGI, "--virtualenv", str(self._installation.venv)]
        # uwsgi notices a closed connection at once, but takes a pause of 4 s for one too.
        for option in ("--socket-timeout", "--chunked-input-timeout"):
            command += [option, str(self._stall_timeout_s)]
        env = {
            **os.environ,
            "PYTHONPATH": str(_REPOSITORY),
            "OS_GLANCE_CONFIG_DIR": str(self.state),
        }
        log = self.state / "uwsgi.log"
        return processes.Server("Glance", command, log, env, own_log=self.log)
