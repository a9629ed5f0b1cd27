# SPDX-License-Identifier: Apache-2.0
"""What a WebDAV server's refusals mean, and what the operator can do about them."""

import requests

from snapshot_core import errors
from snapshot_core.storage.patience import Away, parse_retry_after

_ADVICE = {
    401: "the user name, password or token is wrong or missing",
    403: "the account may not do this there",
    404: "there is no such collection: create it, or correct the URL",
    405: "the server does not allow this: is WebDAV enabled there?",
    408: "the server waited too long for data: see its time limits, and the network",
    409: "the parent collection does not exist: create it, or correct the URL",
    413: "the server limits the size of an upload: raise its limit",
    423: "the object is locked",
    500: "the server failed: see its log, and whether it has space",
    501: "the server does not know this method: is WebDAV enabled there?",
    502: "a proxy could not reach the server",
    503: "the server is overloaded or being maintained: try again later",
    504: "a proxy had no answer from the server in time",
    507: "the storage is full",
}
# What passes by itself; 408 is what Apache 2.4 says after a cut of the network, or of a slow disk.
# Not 500: WsgiDAV 4.4 says that when its disk is full.
_PASSING = (408, 502, 503, 504)


def succeeded(answer: requests.Response) -> bool:
    """Tell whether all that was asked for was done."""
    # requests' own `ok` holds for redirects too; 207 has the failures of single members
    return 200 <= answer.status_code < 300 and answer.status_code != 207


def refusal(where: str, answer: requests.Response) -> errors.StorageUnavailable:
    """Return the error that an ``answer`` means; ``where`` is the URL that it is about."""
    status = answer.status_code
    if 300 <= status < 400:
        advice = "redirects are not followed: name the storage's final URL"
    else:
        advice = _ADVICE.get(status, "see the server's log")
    message = "%s answered %d to %s: %s" % (where, status, answer.request.method, advice)
    if status in _PASSING:
        return Away(message, parse_retry_after(answer.headers.get("Retry-After")))
    return errors.StorageUnavailable(message)
