# SPDX-License-Identifier: Apache-2.0
"""A machine's own credentials: a token for the objects of one snapshot, until some time.

The storage checks it by a key that it shares with the conductors, and keeps nothing: see
``docs/examples/token-apache.conf``.
"""

import hashlib
import re
import time

from conductor_client import errors
from snapshot_core.credentials import Credentials, read_secret_file

# Nothing that Apache's configuration or expressions could take for something else.
_KEY = re.compile(r"[A-Za-z0-9]{32,128}")
# The storage compares with its local time, and nobody knows its zone here.
_ANY_ZONE_S = 14 * 3600


def issue(key_file: str, collection: str, generation: str, valid_until: int) -> Credentials:
    """Return the credentials for the objects of a ``collection`` that begin with ``generation``.

    :param key_file: holds the key, and has mode 600.
    :param collection: its path at the storage, such as ``/snapshots/NODE``.
    :param valid_until: in seconds since the epoch; they end there, or up to 28 hours later.
    :raises: InvalidRequest
    """
    key = read_secret_file(key_file).strip()
    if not _KEY.fullmatch(key):
        raise errors.InvalidRequest(
            "%s must hold 32 to 128 letters and digits, as 'openssl rand -hex 32' prints" % key_file
        )
    until = time.strftime("%Y%m%d%H%M%S", time.gmtime(valid_until + _ANY_ZONE_S))
    claim = "%s-%s" % (until, generation)
    proof = _sha1(key, _sha1(key, "%s %s/" % (claim, collection)))
    return Credentials(token="%s-%s" % (claim, proof))


def _sha1(key: str, text: str) -> str:
    # Apache 2.4's expressions know no HMAC, and nothing better than SHA-1. Nested, and of texts of
    # one form, it is one.
    return hashlib.sha1((key + text).encode(), usedforsecurity=False).hexdigest()
