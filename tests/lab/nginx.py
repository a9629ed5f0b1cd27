# SPDX-License-Identifier: Apache-2.0
"""A real nginx with its own WebDAV module, Basic authentication and TLS on 127.0.0.1.

The module has PUT, DELETE, MKCOL, COPY and MOVE; PROPFIND and locks are in another one, which is
not used here.
"""

import os
import pathlib
import pwd
import subprocess

from tests.lab import certificates, processes, services

# Taken out of Debian's package by tools/setup.sh: installed, it would serve on port 80.
_PROGRAM = pathlib.Path(__file__).parents[2] / ".cache/nginx/usr/sbin/nginx"

# What the documentation shows, for an account that can write but neither read nor list.
WRITE_ONLY = pathlib.Path(__file__).parents[2] / "docs/examples/write-only-nginx.conf"

_CONFIG = """\
daemon off;
pid {state}/nginx.pid;
error_log {state}/error.log warn;
events {{}}
http {{
  access_log {state}/access.log;
  client_body_temp_path {state}/incoming;
  proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/fastcgi;
  uwsgi_temp_path {state}/uwsgi;
  scgi_temp_path {state}/scgi;
  {roles}
  server {{
    listen 127.0.0.1:{port}{tls};
    client_max_body_size {largest};
    client_body_timeout 300s;
    location /snapshots/ {{
      alias {directory}/;
      dav_methods {methods};
      dav_access user:rw;
      {auth}
      {refusal}
    }}
  }}
}}
"""


class Nginx(services.Service):
    """Serve ``directory`` (kept) as ``url`` while the context lasts.

    :param machine_password: that of a further account, ``machine``, which can write but neither
        read nor list.
    :param tls: serve https with a certificate of our own authority, ``cacert``.
    :param methods: what its WebDAV module may do.
    :param largest: its limit for the size of an upload; 0: none.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        username: str | None = None,
        password: str | None = None,
        *,
        machine_password: str | None = None,
        tls: bool = True,
        methods: str = "PUT DELETE MKCOL COPY MOVE",
        largest: str = "0",
    ) -> None:
        self.port = processes.free_port()
        scheme = "https" if tls else "http"
        super().__init__("nginx", f"{scheme}://127.0.0.1:{self.port}/snapshots", probe="/")
        self.directory = pathlib.Path(directory)
        self.cacert: pathlib.Path | None = None
        self._users = {username: password} if username is not None else {}
        self._write_only = machine_password is not None
        if self._write_only:
            self._users["machine"] = machine_password
        self._tls = tls
        self._methods = methods
        self._largest = largest

    @property
    def access_log(self) -> pathlib.Path:
        """One line a request, with the status that it got."""
        return self.state / "access.log"

    def _prepare(self) -> processes.Server:
        self.directory.mkdir(parents=True, exist_ok=True)
        certs = certificates.issue(self.state)
        self.cacert = certs.cacert if self._tls else None
        config = self.state / "nginx.conf"
        config.write_text(self._config(certs))
        account = pwd.getpwnam("www-data")
        for path in (self.directory, self.state, *self.state.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        self.state.chmod(0o755)
        # As www-data, as it would be; the one capability leads through pytest's directories,
        # which are closed to all others. pdeathsig: as in tests.lab.apache.
        command = ["setpriv", "--reuid", "www-data", "--regid", "www-data", "--clear-groups"]
        command += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        command += ["--pdeathsig", "KILL", str(_PROGRAM), "-e", "stderr", "-c", str(config)]
        return processes.Server(
            "nginx", command, self.state / "output", own_log=self.state / "error.log"
        )

    def _config(self, certs: certificates.Certificates) -> str:
        auth, tls = "", ""
        if self._users:
            users = self.state / "users"
            auth = f"auth_basic snapshots; auth_basic_user_file {users};"
            lines = ["%s:%s\n" % (name, _hashed(str(word))) for name, word in self._users.items()]
            users.write_text("".join(lines))
        if self._tls:
            tls = f" ssl;\n    ssl_certificate {certs.cert};\n    ssl_certificate_key {certs.key}"
        return _CONFIG.format(
            state=self.state, directory=self.directory, port=self.port, tls=tls, auth=auth,
            methods=self._methods, largest=self._largest,
            roles=f"include {WRITE_ONLY};" if self._write_only else "",
            refusal="if ($not_for_machines) { return 403; }" if self._write_only else "",
        )  # fmt: skip


def _hashed(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-apr1", "-stdin"],
        input=password.encode(), check=True, capture_output=True,
    )  # fmt: skip
    return done.stdout.decode().strip()
