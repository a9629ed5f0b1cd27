# SPDX-License-Identifier: Apache-2.0
"""A real nfs-ganesha on 127.0.0.1: NFS 4.2 from user space, which needs nothing of the kernel."""

import os
import pathlib
import socket
from collections.abc import Callable

from tests.lab import processes, services

# As tools/setup.sh leaves it: unpacked.
_USR = pathlib.Path(__file__).parents[2] / ".cache/ganesha/usr"
_PROGRAM = _USR / "bin/ganesha.nfsd"
_SHARED = _USR / "lib/x86_64-linux-gnu"
# Its own is in a directory that the installed program knows.
_LIBRARIES = (_SHARED, _USR / "lib/ganesha")

_CONFIG = """\
NFS_CORE_PARAM {{
    NFS_Port = {port};
    # With version 4 alone it asks for no rpcbind.
    Protocols = 4;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Enable_UDP = false;
    Plugins_Dir = "{plugins}";
    mount_path_pseudo = true;
}}
NFSv4 {{
    Minor_Versions = 2;
    # Who had a file open when the server went down has so long to ask for it again.
    Grace_Period = 15;
    Lease_Lifetime = 10;
    RecoveryBackend = fs;
    RecoveryRoot = "{state}/recovery";
    Only_Numeric_Owners = true;
    # Else it loads the plug-ins of an installed libnfsidmap.
    UseGetpwnam = true;
}}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{
    Export_Id = 1;
    Path = "{directory}";
    Pseudo = "{export}";
    Protocols = 4;
    Transports = TCP;
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = sys;
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = EVENT; }}
"""


class Ganesha(services.Service):
    """Export ``directory`` (kept) as ``url`` while the context lasts, by NFS 4.2 and no other."""

    EXPORT = "/snapshots"

    def __init__(self, directory: pathlib.Path) -> None:
        self.port = processes.free_port()
        super().__init__("ganesha", f"nfs://127.0.0.1:{self.port}{self.EXPORT}")
        self.directory = pathlib.Path(directory)

    @property
    def log(self) -> pathlib.Path:
        """The server's own log."""
        return self.state / "ganesha.log"

    def _prepare(self) -> processes.Server:
        if not _PROGRAM.exists():
            raise RuntimeError(f"no nfs-ganesha in {_PROGRAM.parent}: run tools/setup.sh ganesha")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.state / "recovery").mkdir()
        config = self.state / "ganesha.conf"
        config.write_text(
            _CONFIG.format(
                port=self.port, state=self.state, directory=self.directory, export=self.EXPORT,
                plugins=_SHARED / "ganesha",
            )
        )  # fmt: skip
        command = [str(_PROGRAM), "-F", "-f", str(config), "-L", str(self.log)]
        command += ["-p", str(self.state / "ganesha.pid")]
        env = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, _LIBRARIES))}
        output = self.state / "output.log"
        server = _NfsServer("nfs-ganesha", command, output, env, own_log=self.log)
        server.port = self.port
        return server


class _NfsServer(processes.Server):
    """Asked whether it is ready by a connection: it does not speak HTTP."""

    port = 0

    def start(self, ready: Callable[[], bool], timeout_s: float = 30) -> None:
        super().start(self._listens, timeout_s)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
        except OSError:
            return False
