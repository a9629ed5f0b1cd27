# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that wait for a server which takes nothing for a while."""

from typing import Any

import requests

from snapshot_core.session import mix_into_connections

# How long a server may take nothing of what it is sent: as long as its answer may take.
SENDING_S = 300.0


def wait_when_sending(session: requests.Session) -> None:
    """Let the requests of the ``session`` wait for :data:`SENDING_S` when they send.

    urllib3 2.8 sends with the time-out of connecting: a server that was busy with its disks for
    15 s broke an upload off.
    """
    mix_into_connections(session, _PatientSending)


class _PatientSending:
    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(SENDING_S)

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # which was used before
            self.sock.settimeout(SENDING_S)
        super().endheaders(*args, **kwargs)  # type: ignore[misc]
