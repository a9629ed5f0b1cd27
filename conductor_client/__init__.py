# SPDX-License-Identifier: Apache-2.0
"""The conductor's side of a snapshot: start it, follow it, verify it, upload it, clean up.

>>> import conductor_client
>>> conductor_client.take_snapshot.__name__
'take_snapshot'
"""

from conductor_client.flow import Snapshot, take_snapshot

__all__ = ["Snapshot", "take_snapshot"]
