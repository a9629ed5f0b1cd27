# SPDX-License-Identifier: Apache-2.0
"""Two Ironics over one database, each with API and conductor: they share the nodes."""

import contextlib
import pathlib
import socket
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any, Self

import psutil

from tests.lab import conductors, processes
from tests.lab.ironic import DEFAULT_VENV, Ironic
from tests.lab.machines import wait_until
from tests.lab.nodes import Node

# As tools/setup.sh leaves it: unpacked.
_UNPACKED = pathlib.Path(__file__).parents[2] / ".cache/mariadb"
_MARIADB = _UNPACKED / "usr/sbin/mariadbd"
_SHARED = _UNPACKED / "usr/share/mysql"
# Each statement in a line of its own, as its bootstrap wants it.
_DATABASES = b"""\
CREATE DATABASE ironic CHARACTER SET utf8mb3;
CREATE DATABASE mysql;
USE mysql;
"""

_CONFIG = """\
[DEFAULT]
host = {host}
rpc_transport = json-rpc
hash_ring_reset_interval = 1
# So that the log tells whom the conductor asks.
default_log_levels = urllib3.connectionpool=DEBUG,sqlalchemy=WARNING
[json_rpc]
host_ip = {host}
[conductor]
heartbeat_interval = 1
heartbeat_timeout = 10
[database]
connection = {database}
[metrics]
backend = statsd
[metrics_statsd]
statsd_host = 127.0.0.1
statsd_port = {statsd}
"""


class MariaDB:
    """MariaDB with an empty database while the context lasts; its files stay in ``directory``.

    Ironic 39 leaves its hash ring as it is, and sends no heartbeats, where SQLite is its database.

    :ivar url: the database's, for SQLAlchemy.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._port = processes.free_port()
        self.url = "mysql+pymysql://root@127.0.0.1:%d/ironic" % self._port
        self._server: processes.Server | None = None

    def __enter__(self) -> Self:
        if not _MARIADB.exists():
            raise RuntimeError(f"no {_MARIADB}: run tools/setup.sh ironic")
        data = self._directory / "data"
        data.mkdir(parents=True)
        program = [
            str(_MARIADB), "--no-defaults", "--user=root", "--datadir=%s" % data,
            "--lc-messages-dir=%s" % _SHARED, "--character-sets-dir=%s" % (_SHARED / "charsets"),
            "--innodb-flush-log-at-trx-commit=0",
        ]  # fmt: skip
        tables = (_SHARED / "mysql_system_tables.sql").read_bytes()
        subprocess.run([*program, "--bootstrap"], input=_DATABASES + tables, check=True)
        command = [
            *program, "--bind-address=127.0.0.1", "--port=%d" % self._port,
            "--socket=%s" % (self._directory / "socket"),
            # The tables of accounts are empty.
            "--skip-grant-tables",
            # A conductor that is put to sleep may hold locks.
            "--idle-transaction-timeout=3",
        ]  # fmt: skip
        self._server = processes.Server("MariaDB", command, self._directory / "output.log")
        self._server.start(self._accepts)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.kill()

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port)):
                return True
        except ConnectionRefusedError:
            return False


class Conductor(Ironic):
    """One of several Ironics.

    :param host: the address where the others reach it; its name among them.
    """

    def __init__(
        self, directory: pathlib.Path, backends: conductors.Backends, host: str, database: str,
        venv: pathlib.Path, config: str, **options: object,
    ) -> None:  # fmt: skip
        self.host = host
        # A statsd for one: its socket is what keeps the datagrams.
        self._metrics = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._metrics.bind(("127.0.0.1", 0))
        self._metrics.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        self._metrics.setblocking(False)
        own = _CONFIG.format(host=host, database=database, statsd=self._metrics.getsockname()[1])
        super().__init__(
            directory, backends.gate.url, extra_config=backends.config(**options) + own + config,
            venv=venv,
        )  # fmt: skip

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._metrics.close()

    def kill(self) -> None:
        """End it, and take the certificates of agents away: its disk is not the others'."""
        super().kill()
        for certificate in (self.state / "certificates").iterdir():
            certificate.unlink()

    def start_again_if_killed(self) -> None:
        """Start it again if it does not run."""
        if self._server is not None and not self._server.running:
            self.start_again()

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Stop it, as a machine that hangs or is frozen, while the context lasts."""
        main = psutil.Process(self.pid)
        family = [main, *main.children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def sees(self) -> set[str]:
        """Return the names of the conductors that it takes for alive."""
        found = self.connection().baremetal.conductors(details=True)
        return {conductor.hostname for conductor in found if conductor.alive}

    def wait_for_rounds(self, periodic: str, count: int = 3) -> None:
        """Return when a periodic task of the plug-in has run so often from now on."""
        self._rounds(periodic)
        done = 0

        def enough() -> bool:
            nonlocal done
            done += self._rounds(periodic)
            return done >= count

        wait_until("%d rounds of %s at %s" % (count, periodic, self.host), enough)

    def _rounds(self, periodic: str) -> int:
        """Return how often the task has ended since the last call."""
        found = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                name = self._metrics.recv(65536).decode().partition(":")[0]
                found += name.endswith("SnapshotVendor." + periodic)
        return found

    def has_asked(self, port: int) -> bool:
        """Tell whether it has opened a connection to this port of 127.0.0.1."""
        return any(
            "connectionpool" in line and "127.0.0.1:%d" % port in line
            for line in self.log.read_text(errors="replace").splitlines()
        )


class Cluster:
    """Two conductors, of which ``one`` may be killed by a test, and ``other`` stays."""

    def __init__(self, one: Conductor, other: Conductor) -> None:
        self.one = one
        self.other = other

    def wait_for_both(self) -> None:
        """Return as soon as each knows of the other."""
        both = {self.one.host, self.other.host}
        wait_until(
            "two conductors", lambda: self.one.sees() == both == self.other.sees(), timeout_s=90
        )

    def enrol(self, conductor: Conductor, **attributes: Any) -> Node:
        """Enrol a node that the hash ring gives to ``conductor``, through the API of ``other``."""
        baremetal = self.other.connection().baremetal
        while True:
            # The ring goes by the UUID, and a node shows where it is only when it is there.
            tried = baremetal.create_node(id=str(uuid.uuid4()), driver="fake-hardware")
            fits = baremetal.get_node(tried.id).conductor == conductor.host
            baremetal.delete_node(tried.id)
            if fits:
                return conductors.enrol(self.other, id=tried.id, **attributes)


@contextlib.contextmanager
def cluster(
    directory: pathlib.Path, backends: conductors.Backends, *, venv: pathlib.Path = DEFAULT_VENV,
    config: str = "", **options: object,
) -> Iterator[Cluster]:  # fmt: skip
    """Run two conductors with these options of [snapshot] while the context lasts.

    :param venv: that of their Ironic; ``config``: sections to append to its configuration.
    """
    with contextlib.ExitStack() as running:
        database = running.enter_context(MariaDB(directory / "database")).url
        one, other = (
            Conductor(directory / host, backends, host, database, venv, config, **options)
            # Each with a port for JSON-RPC, which is the same by default.
            for host in ("127.0.0.1", "127.0.0.2")
        )
        _create_schema(directory, database, venv)
        pair = Cluster(running.enter_context(one), running.enter_context(other))
        pair.wait_for_both()
        yield pair


def _create_schema(directory: pathlib.Path, database: str, venv: pathlib.Path) -> None:
    config = directory / "schema.conf"
    config.write_text("[database]\nconnection = %s\n" % database)
    subprocess.run(
        [venv / "bin/ironic-dbsync", "--config-file", config, "create_schema"],
        check=True, capture_output=True,
    )  # fmt: skip
