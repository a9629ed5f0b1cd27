# SPDX-License-Identifier: Apache-2.0
"""HTTP to a server that was named, and to no other."""

from typing import Any

import requests
import requests.adapters
import urllib3

_KINDS = {
    "http": (urllib3.HTTPConnectionPool, urllib3.connection.HTTPConnection),
    "https": (urllib3.HTTPSConnectionPool, urllib3.connection.HTTPSConnection),
}


class Session(requests.Session):
    """Takes nothing from the environment, neither proxies nor ``.netrc``, and follows no redirect.

    requests 2.34 is not enough with ``allow_redirects=False``: it still parses where a redirect
    leads to, and before that reads its body, however long that is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Find no redirect in any answer."""


def mix_into_connections(session: requests.Session, behaviour: type) -> None:
    """Let the connections of the ``session`` be of this class, too, before those of urllib3."""
    for scheme in _KINDS:
        session.mount(scheme + "://", _Adapter(behaviour))


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, behaviour: type) -> None:
        self._pools = {
            scheme: type("Pool", (pool,), {
                "ConnectionCls": type("Connection", (behaviour, connection), {}),
            })
            for scheme, (pool, connection) in _KINDS.items()
        }  # fmt: skip
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools
