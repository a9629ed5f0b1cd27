# SPDX-License-Identifier: Apache-2.0
"""A real Apache with mod_dav, Basic or Digest authentication and TLS on 127.0.0.1."""

import hashlib
import os
import pathlib
import pwd
import subprocess

from tests.lab import certificates, processes, services

# What the documentation shows, for an account that can write but neither read nor list.
_EXAMPLES = pathlib.Path(__file__).parents[2] / "docs/examples"
WRITE_ONLY = _EXAMPLES / "write-only-apache.conf"
WITH_TOKENS = _EXAMPLES / "token-apache.conf"

# fmt: off
_MODULES = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic",
    "auth_digest", "dav", "dav_fs", "alias", "ssl", "env", "setenvif", "headers", "rewrite",
    "reqtimeout",
)
# fmt: on

_CONFIG = """\
ServerName localhost
ServerRoot {state}
DefaultRuntimeDir {state}
PidFile {state}/httpd.pid
Mutex file:{state} default
Listen 127.0.0.1:{port}
ErrorLog {state}/error.log
CustomLog {state}/access.log "%t %r %>s"
LogLevel warn
{modules}
DavLockDB {state}/DavLock
DocumentRoot {document_root}
Alias /snapshots {document_root}
{server_config}
<Directory {document_root}>
  Dav On
  LimitRequestBody 0
  {auth}
  {extra_config}
</Directory>
{tls}
"""


class Apache(services.Service):
    """Serve ``directory`` (kept) as ``url`` while the context lasts.

    :param machine_password: that of a further account, ``machine``, which can write but neither
        read nor list; then ``username`` must be ``conductor``.
    :param token_key: machines have tokens that were made with this key; then too.
    :param digest: ask for Digest authentication, and not for Basic; then neither of the two.
    :param tls: serve https with a certificate of our own authority, ``cacert``.
    :param expired: that certificate was good until yesterday.
    :param extra_config: lines for the <Directory> block, to provoke faults.
    :param server_config: lines for the server itself, such as ``RequestReadTimeout``.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        username: str | None = "snapshot",
        password: str | None = "secret",
        *,
        machine_password: str | None = None,
        token_key: str | None = None,
        digest: bool = False,
        tls: bool = True,
        expired: bool = False,
        extra_config: str = "",
        server_config: str = "",
    ) -> None:
        self.port = processes.free_port()
        scheme = "https" if tls else "http"
        super().__init__("apache", f"{scheme}://127.0.0.1:{self.port}/snapshots")
        self.document_root = pathlib.Path(directory)
        self.cacert: pathlib.Path | None = None
        self._users = {username: password} if username is not None else {}
        self._write_only = machine_password is not None
        if self._write_only:
            self._users["machine"] = machine_password
        self._token_key = token_key
        self._digest = digest
        self._tls = tls
        self._expired = expired
        self._extra_config = extra_config
        self._server_config = server_config

    @property
    def log(self) -> pathlib.Path:
        """Apache's error log."""
        return self.state / "error.log"

    @property
    def access_log(self) -> pathlib.Path:
        """One line a request, with the status that it got."""
        return self.state / "access.log"

    def _prepare(self) -> processes.Server:
        self.document_root.mkdir(parents=True, exist_ok=True)
        certs = certificates.issue(self.state, expired=self._expired)
        self.cacert = certs.cacert if self._tls else None
        self._write_users()
        config = self.state / "httpd.conf"
        config.write_text(self._config(certs))
        self.log.touch()
        account = pwd.getpwnam("www-data")
        for path in (self.document_root, self.state, *self.state.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        self.state.chmod(0o755)
        # Apache refuses to serve as root, and pytest's directories are closed to all others:
        # with this one capability www-data gets through them, and writes only what it owns.
        command = ["setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups"]
        command += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        # The kernel forgets this wish of processes.Server when the user changes.
        command += ["--pdeathsig", "KILL"]
        command += ["apache2", "-f", str(config), "-DFOREGROUND"]
        return processes.Server("Apache", command, self.log)

    def _write_users(self) -> None:
        users = self.state / "users"
        users.touch()
        if self._digest:
            # as htdigest writes it, which asks for the password on a terminal
            accounts = [(name, "snapshots", word) for name, word in self._users.items()]
            users.write_text("".join("%s:%s:%s\n" % (*one[:2], _ha1(*one)) for one in accounts))
            return
        for name, password in self._users.items():
            subprocess.run(
                ["htpasswd", "-i", str(users), name],
                input=str(password).encode(),
                check=True,
                capture_output=True,
            )

    def _requirement(self) -> str:
        if self._token_key is not None:
            return f"Define SNAPSHOT_KEY {self._token_key}\n  Include {WITH_TOKENS}"
        return f"Include {WRITE_ONLY}" if self._write_only else "Require valid-user"

    def _config(self, certs: certificates.Certificates) -> str:
        where = "/usr/lib/apache2/modules"
        auth = "Require all granted"
        if self._users:
            users = self.state / "users"
            kind = "Digest" if self._digest else "Basic"
            auth = f"AuthType {kind}\n  AuthName snapshots\n  AuthUserFile {users}\n"
            auth += "  " + self._requirement()
        tls = ""
        if self._tls:
            tls = f"SSLEngine on\nSSLCertificateFile {certs.cert}\n"
            tls += f"SSLCertificateKeyFile {certs.key}"
        return _CONFIG.format(
            state=self.state,
            port=self.port,
            document_root=self.document_root,
            modules="\n".join(f"LoadModule {m}_module {where}/mod_{m}.so" for m in _MODULES),
            server_config=self._server_config,
            auth=auth,
            extra_config=self._extra_config,
            tls=tls,
        )


def _ha1(*words: object) -> str:
    return hashlib.md5(":".join(map(str, words)).encode()).hexdigest()
