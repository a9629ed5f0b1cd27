# SPDX-License-Identifier: Apache-2.0
"""A real Keystone under uwsgi, with SQLite, fernet tokens, and the accounts that tests ask for."""

import base64
import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import openstack
import openstack.connection

from tests.lab import processes, services
from tests.lab.installation import Installation

_REPOSITORY = pathlib.Path(__file__).parents[2]
DEFAULT_VENV = _REPOSITORY / ".venv-keystone"

_CONFIG = """\
[DEFAULT]
log_file = {state}/keystone.log
[database]
connection = sqlite:///{state}/keystone.sqlite
[token]
expiration = {expiration_s}
[fernet_tokens]
key_repository = {state}/keys
[fernet_receipts]
key_repository = {state}/keys
[credential]
key_repository = {state}/keys
[identity]
# The fewest that bcrypt takes: the default costs a quarter of a second for each token.
password_hash_rounds = 4
[oslo_concurrency]
lock_path = {state}/lock
"""
# fmt: off
_UWSGI = (
    "--master", "--die-on-term", "--need-app", "--lazy-apps", "--enable-threads", "--threads", "4",
    "--buffer-size", "65535", "--module", "keystone.wsgi.api:application",
    # uwsgi closes every connection after its answer, and clients should hear of it.
    "--add-header", "Connection: close",
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Account:
    """What somebody shows to be let in: the type of it, and the words that go with that."""

    auth_type: str
    auth: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """Return the OS_* variables with which any OpenStack client uses it."""
        words = {f"OS_{name.upper()}": value for name, value in self.auth.items()}
        return {"OS_AUTH_TYPE": self.auth_type, **words}

    def cloud(self) -> dict[str, Any]:
        """Return it as a cloud of a clouds.yaml."""
        return {"auth_type": self.auth_type, "auth": dict(self.auth)}

    def connection(self, **settings: Any) -> openstack.connection.Connection:
        """Return a connection, whatever the environment's own OS_* variables say."""
        return openstack.connect(
            load_yaml_config=False, load_envvars=False, **self.cloud(), **settings
        )

    def section(self, name: str) -> str:
        """Return it as a section of a service's configuration."""
        words = {"auth_type": self.auth_type, **self.auth}
        return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in words.items())


class Keystone(services.Service):
    """Run Keystone while the context lasts; its state lies in ``state_dir`` (kept).

    :param venv: the virtual environment of keystone-requirements.txt.
    """

    region = "lab"

    def __init__(
        self, state_dir: str | os.PathLike[str], venv: str | os.PathLike[str] = DEFAULT_VENV
    ) -> None:
        self.port = processes.free_port()
        super().__init__(
            "keystone",
            f"http://127.0.0.1:{self.port}",
            probe="/v3",
            state=pathlib.Path(state_dir),
        )
        self.password = secrets.token_urlsafe(16)
        self._installation = Installation("keystone", venv)

    @property
    def log(self) -> pathlib.Path:
        """Keystone's own log; what uwsgi says is next to it, in uwsgi.log."""
        return self.state / "keystone.log"

    @property
    def auth_url(self) -> str:
        """What clients call OS_AUTH_URL."""
        return self.url + "/v3"

    @property
    def admin(self) -> Account:
        """The administrator, with the scope of the system."""
        return self._by_password("admin", self.password, system_scope="all")

    @property
    def project_admin(self) -> Account:
        """The administrator, with the scope of a project, as Glance wants it."""
        return self._in_project("admin", self.password, "admin")

    def account(self, name: str, project: str, *roles: str) -> Account:
        """Make a user with roles in a project, which is made if there is none."""
        identity = self._identity()
        found = identity.find_project(project) or identity.create_project(
            name=project, domain_id="default"
        )
        password = secrets.token_urlsafe(16)
        user = identity.create_user(name=name, password=password, domain_id="default")
        for role in roles:
            identity.assign_project_role_to_user(found, user, identity.find_role(role))
        return self._in_project(name, password, project)

    def project_id(self, project: str) -> str:
        """Return the ID of a project, by its name."""
        found: str = self._identity().find_project(project, ignore_missing=False).id
        return found

    def token_of(self, account: Account) -> Account:
        """Return an account by a token alone, which cannot be renewed when it has expired."""
        session = account.connection().session
        token = {"auth_url": self.auth_url, "token": session.get_token()}
        return Account("v3token", {**token, "project_id": session.get_project_id()})

    def revoke(self, token: Account) -> None:
        """Let nobody accept a token any more, nor one that was made with it.

        Keystone's answers are then those for a token that has expired.
        """
        answer = self.admin.connection().session.delete(
            self.auth_url + "/auth/tokens", headers={"X-Subject-Token": token.auth["token"]}
        )
        answer.raise_for_status()

    def application_credential_of(self, account: Account) -> Account:
        """Return an account by a new application credential, restricted as they are by default."""
        cloud = account.connection()
        made = cloud.identity.create_application_credential(
            user=cloud.current_user_id, name=str(uuid.uuid4())
        )
        return Account(
            "v3applicationcredential",
            {
                "auth_url": self.auth_url,
                "application_credential_id": made.id,
                "application_credential_secret": made.secret,
            },
        )

    def service(self, kind: str, url: str, limits: Mapping[str, int] | None = None) -> Account:
        """Put a service (``image``) into the catalog, and make the account that it has itself.

        It takes the place of the one that was there.

        :param limits: how much of its resources each project may have by default.
        """
        identity = self._identity()
        for replaced in identity.services(type=kind):
            identity.delete_service(replaced)
        made = identity.create_service(type=kind, name=kind)
        identity.create_endpoint(
            service_id=made.id, interface="public", url=url, region_id=self.region
        )
        for resource, limit in (limits or {}).items():
            identity.create_registered_limit(
                service_id=made.id, region_id=self.region,
                resource_name=resource, default_limit=limit,
            )  # fmt: skip
        return self.account(f"{kind}-{made.id}", "service", "admin", "service")

    @contextlib.contextmanager
    def short_tokens(self, expiration_s: int) -> Iterator[None]:
        """Let tokens that are made meanwhile expire after so many seconds."""
        self._restart(expiration_s)
        try:
            yield
        finally:
            self._restart(3600)

    def _restart(self, expiration_s: int) -> None:
        self._write_configuration(expiration_s)
        self.kill()
        self.start_again()

    def _identity(self) -> Any:
        return self.admin.connection().identity

    def _by_password(self, name: str, password: str, **scope: str) -> Account:
        user = {"username": name, "password": password, "user_domain_id": "default"}
        return Account("password", {"auth_url": self.auth_url, **user, **scope})

    def _in_project(self, name: str, password: str, project: str) -> Account:
        return self._by_password(name, password, project_name=project, project_domain_id="default")

    def _write_configuration(self, expiration_s: int = 3600) -> None:
        config = _CONFIG.format(state=self.state, expiration_s=expiration_s)
        (self.state / "keystone.conf").write_text(config)

    def _write_keys(self) -> None:
        # What `keystone-manage fernet_setup` makes: the next key, and the one in use.
        keys = self.state / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        for number in "01":
            key = keys / number
            key.touch(mode=0o600)
            key.write_bytes(base64.urlsafe_b64encode(secrets.token_bytes(32)))

    def _prepare(self) -> processes.Server:
        self.state.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self._write_keys()
        made = self._installation.migrated_database("keystone-manage", "db_sync")
        shutil.copyfile(made, self.state / "keystone.sqlite")
        self._installation.run(
            "keystone-manage", "--config-file", str(self.state / "keystone.conf"), "bootstrap",
            "--bootstrap-password", self.password, "--bootstrap-region-id", self.region,
            "--bootstrap-public-url", self.auth_url, "--bootstrap-internal-url", self.auth_url,
        )  # fmt: skip
        command = [self._installation.program("uwsgi"), "--http-socket", f"127.0.0.1:{self.port}"]
        command += [*_UWSGI, "--virtualenv", str(self._installation.venv)]
        env = {**os.environ, "OS_KEYSTONE_CONFIG_DIR": str(self.state)}
        log = self.state / "uwsgi.log"
        return processes.Server("Keystone", command, log, env, own_log=self.log)
