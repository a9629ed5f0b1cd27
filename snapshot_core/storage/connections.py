# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that wait for a server which takes nothing for a while."""

from typing import Any

import requests
import requests.adapters
import urllib3

# How long a server may take nothing of what it is sent: as long as its answer may take.
SENDING_S = 300.0


def wait_when_sending(session: requests.Session) -> None:
    """Let the requests of the ``session`` wait for :data:`SENDING_S` when they send.

    urllib3 2.8 sends with the time-out of connecting: a server that was busy with its disks for
    15 s broke an upload off.
    """
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())


class _PatientSending:
    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(SENDING_S)

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # which was used before
            self.sock.settimeout(SENDING_S)
        super().endheaders(*args, **kwargs)  # type: ignore[misc]


class _Connection(_PatientSending, urllib3.connection.HTTPConnection):
    """Over plain HTTP."""


class _TlsConnection(_PatientSending, urllib3.connection.HTTPSConnection):
    """Over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
