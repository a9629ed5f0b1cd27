# SPDX-License-Identifier: Apache-2.0
"""One request to the storage's server: its answer, or one clear error."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import requests
import urllib3
from oslo_log import log

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust, is_untrusted
from snapshot_core.digest import DigestAuth
from snapshot_core.session import Session
from snapshot_core.storage.connections import AnsweredEarly, guard_sending
from snapshot_core.storage.parts import Part
from snapshot_core.storage.patience import Away

LOG = log.getLogger(__name__)

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED, of openssl/x509_vfy.h
_OUT_OF_DATE = (9, 10)


def open_session(credentials: Credentials | None, trust: Trust) -> requests.Session:
    """Return a session that sends the ``credentials``, and takes nothing from the environment."""
    session = Session()
    guard_sending(session)
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
    :raises: StorageUnavailable; Away, if the same request may be answered a little later, or was
        answered well before the server had all of it; AnotherConnection
    """
    auth = session.auth if isinstance(session.auth, DigestAuth) else None
    options |= {"timeout": timeout_s, "allow_redirects": False, "stream": True}
    try:
        if auth is None:
            answer = session.request(method, url, **options)
        else:
            answer = _send_with_digest(session, auth, method, url, options)
    except AnsweredEarly as exc:
        raise Away("%s %s" % (url, exc)) from exc
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
        if auth is not None:
            # A server that was restarted, and breaks off when it sees an old answer in front of
            # a large body, would do so each time.
            auth.forget()
        if is_untrusted(exc):
            raise errors.StorageUnavailable(
                "%s: the server's certificate is not trusted (%s): %s"
                % (url, exc, _certificate_advice(exc))
            ) from exc
        raise Away("%s cannot be reached: %s" % (url, exc)) from exc
    LOG.debug(
        "%(method)s %(url)s: %(status)d",
        {"method": method, "url": url, "status": answer.status_code},
    )
    with answer:
        if answer.raw.length_remaining == 0 and not answer.raw.chunked:
            # Only when its end was read is the connection used again, as for the next part.
            # urllib3 2.8 takes the length of a 204 for 0, and would read its chunks for ever.
            _ = answer.content
        yield answer


def _send_with_digest(
    session: requests.Session, auth: DigestAuth, method: str, url: str, options: dict[str, Any]
) -> requests.Response:
    """Send a request with an answer to the server's challenge, and again if that is too old.

    A body that can be sent once is only sent with the answer to a challenge of this moment; others
    if there was any before.
    """
    body = options.get("data")
    is_sent_once = body is not None and not isinstance(body, bytes | Part)
    if is_sent_once or (body is not None and not auth.is_challenged):
        _ask_for_challenge(session, auth, url, options["timeout"])
    answer = session.request(method, url, **options)
    if answer.status_code != 401:
        return answer
    if not auth.learn(answer):
        answer.close()
        raise errors.StorageUnavailable(
            "%s does not ask for Digest authentication that can be answered: correct the server, "
            "or take 'scheme' out of the credentials" % url
        )
    if is_sent_once:
        return answer
    answer.close()
    return session.request(method, url, **options)


def _ask_for_challenge(
    session: requests.Session, auth: DigestAuth, url: str, timeout_s: tuple[float, float]
) -> None:
    # Without an account: a server answers that with a new challenge, whatever the method.
    with session.request(
        "PROPFIND", url, headers={"Depth": "0"}, auth=lambda request: request,
        timeout=timeout_s, allow_redirects=False, stream=True,
    ) as answer:  # fmt: skip
        if answer.status_code == 401:
            auth.learn(answer)


def _certificate_advice(exc: BaseException) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if getattr(cause, "verify_code", None) in _OUT_OF_DATE:
            # Of a machine in a ramdisk it is often the clock.
            return "renew it, or set the clock of this machine, where it is %s UTC" % (
                time.strftime("%Y-%m-%d %H:%M", time.gmtime())
            )
        cause = cause.__cause__ or cause.__context__
    return "pass its authority as the CA file"


class Body:
    """An iterable with a length: requests sends that as Content-Length instead of chunks."""

    def __init__(self, chunks: Iterable[bytes], length: int) -> None:
        self._chunks = chunks
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __len__(self) -> int:
        return self._length
