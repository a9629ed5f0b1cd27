# SPDX-License-Identifier: Apache-2.0
"""One request to the storage's server: its answer, or one clear error."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import requests
import urllib3
from oslo_log import log

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust, is_untrusted
from snapshot_core.storage.patience import Away

LOG = log.getLogger(__name__)


def open_session(credentials: Credentials | None, trust: Trust) -> requests.Session:
    """Return a session that sends the ``credentials``, and takes nothing from the environment."""
    session = requests.Session()
    session.trust_env = False
    # A size that a server reports must be that of the bytes, not of their compressed form.
    session.headers["Accept-Encoding"] = "identity"
    trust.apply(session)
    if credentials is not None:
        credentials.apply(session)
    return session


@contextlib.contextmanager
def exchange(
    session: requests.Session, method: str, url: str, timeout_s: tuple[float, float], **options: Any
) -> Iterator[requests.Response]:
    """Send a request and yield the answer, whatever its status.

    What a server sends with it is not read, save where the caller reads it: a hostile one could
    send it for ever.

    :param timeout_s: for connecting, and for each further step, in seconds.
    :raises: StorageUnavailable; Away, if the same request may be answered a little later.
    """
    try:
        answer = session.request(
            method, url, timeout=timeout_s, allow_redirects=False, stream=True, **options
        )
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
        if is_untrusted(exc):
            raise errors.StorageUnavailable(
                "%s: the server's certificate is not trusted (%s): pass its authority as the CA "
                "file" % (url, exc)
            ) from exc
        raise Away("%s cannot be reached: %s" % (url, exc)) from exc
    LOG.debug(
        "%(method)s %(url)s: %(status)d",
        {"method": method, "url": url, "status": answer.status_code},
    )
    with answer:
        if answer.raw.length_remaining == 0:
            # Only when its end was read is the connection used again, as for the next part.
            _ = answer.content
        yield answer


class Body:
    """An iterable with a length: requests sends that as Content-Length instead of chunks."""

    def __init__(self, chunks: Iterable[bytes], length: int) -> None:
        self._chunks = chunks
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __len__(self) -> int:
        return self._length
