# SPDX-License-Identifier: Apache-2.0
"""A WebDAV collection as the intermediate storage, spoken to directly."""

import contextlib
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Self
from urllib import parse

import requests
import urllib3
from oslo_log import log

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

CHUNK = 1024 * 1024
# Connecting is quick or hopeless. A server may take its time between two of our blocks, and at
# the end, when it syncs what it has taken.
_TIMEOUT_S = (15, 300)
_LENGTH = re.compile(r"[0-9]{1,18}")
_ADVICE = {
    401: "the user name, password or token is wrong or missing",
    403: "the account may not do this there",
    404: "there is no such collection: create it, or correct the URL",
    405: "the server does not allow this: is WebDAV enabled there?",
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


class WebdavStorage(Storage):
    """Objects are the members of one collection.

    Redirects are not followed: the storage is what the operator named, and the credentials go
    nowhere else. Proxies and ``.netrc`` of the environment are not used for the same reason.
    """

    def __init__(self, location: Location, credentials: Credentials | None, trust: Trust) -> None:
        self._location = location
        self._session = requests.Session()
        self._session.trust_env = False
        # A size that a server reports must be that of the bytes, not of their compressed form.
        self._session.headers["Accept-Encoding"] = "identity"
        trust.apply(self._session)
        if credentials is not None:
            credentials.apply(self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._session.close()

    def describe(self, name: str) -> str:
        """See :meth:`.Storage.describe`."""
        return "%s/%s" % (self._location, parse.quote(name))

    def check(self) -> None:
        """See :meth:`.Storage.check`."""
        with self._request("PROPFIND", "", headers={"Depth": "0"}) as answer:
            # 405: nginx 1.22 has PUT, MOVE and DELETE, but not this; what it has shows at once
            if answer.status_code not in (207, 405):
                raise _refusal(str(self._location), answer)

    def create(self, name: str) -> None:
        """See :meth:`.Storage.create`."""
        # Made under another name and moved: that proves, before hours of upload and not after
        # them, that the server moves, and it never overwrites, also where two come at once.
        probe = "ipa-snapshot-%s" % uuid.uuid4().hex
        try:
            with self._request("PUT", probe, data=b"") as answer:
                if not _succeeded(answer):
                    raise _refusal(self.describe(probe), answer)
            self.rename(probe, name)
        except BaseException as exc:
            self.discard(probe)
            if isinstance(exc, errors.InvalidRequest):
                raise errors.InvalidRequest(
                    "%s exists: it is being written now, or was left by a snapshot that was cut "
                    "short; choose another image name, or remove it" % self.describe(name)
                ) from exc
            if isinstance(exc, errors.WriteFailed):
                raise errors.StorageUnavailable(str(exc)) from exc
            raise

    def size(self, name: str) -> int | None:
        """See :meth:`.Storage.size`."""
        # Apache 2.4 leaves the length of an empty object out of its answer to HEAD, not to GET.
        for method in ("HEAD", "GET"):
            with self._request(method, name) as answer:
                if answer.status_code == 404:
                    return None
                if answer.status_code != 200:
                    raise _refusal(self.describe(name), answer)
                length = answer.headers.get("Content-Length", "")
            if _LENGTH.fullmatch(length):
                return int(length)
        raise errors.StorageUnavailable(
            "%s does not tell the size of %s" % (self._location, self.describe(name))
        )

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        """See :meth:`.Storage.write`."""
        try:
            # without a length requests sends each chunk as one of the transfer encoding's
            body = iter(chunks) if length is None else _Body(chunks, length)
            with self._request("PUT", name, data=body) as answer:
                if _succeeded(answer):
                    return
                raise errors.WriteFailed(str(_refusal(self.describe(name), answer)))
        except errors.StorageUnavailable as exc:
            raise errors.WriteFailed("writing to the storage broke off: %s" % exc) from exc

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Iterator[bytes]]:
        """See :meth:`.Storage.read`."""
        with self._request("GET", name) as answer:
            if answer.status_code != 200:
                raise _refusal(self.describe(name), answer)
            yield self._chunks(name, answer)

    def _chunks(self, name: str, answer: requests.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(CHUNK)
        except requests.RequestException as exc:
            raise errors.StorageUnavailable(
                "reading %s broke off: %s" % (self.describe(name), exc)
            ) from exc

    def rename(self, name: str, new_name: str) -> None:
        """See :meth:`.Storage.rename`."""
        # A full URL, since Apache 2.4 answers 400 to a path, which the RFC allows.
        headers = {"Destination": self.describe(new_name), "Overwrite": "F"}
        with self._request("MOVE", name, headers=headers) as answer:
            if answer.status_code == 412:
                raise errors.InvalidRequest(
                    "%s appeared meanwhile and is not overwritten" % self.describe(new_name)
                )
            if not _succeeded(answer):
                raise errors.WriteFailed(str(_refusal(self.describe(new_name), answer)))

    def remove(self, name: str) -> None:
        """See :meth:`.Storage.remove`."""
        with self._request("DELETE", name) as answer:
            if answer.status_code != 404 and not _succeeded(answer):
                raise errors.WriteFailed(str(_refusal(self.describe(name), answer)))

    @contextlib.contextmanager
    def _request(self, method: str, name: str, **options: Any) -> Iterator[requests.Response]:
        # What a server sends with an answer is not read, save where the caller reads it (GET):
        # a hostile one could send it for ever.
        url = self.describe(name)
        try:
            answer = self._session.request(
                method, url, timeout=_TIMEOUT_S, allow_redirects=False, stream=True, **options
            )
        except requests.exceptions.SSLError as exc:
            raise errors.StorageUnavailable(
                "%s: the server's certificate is not trusted (%s): pass its authority as the CA "
                "file" % (url, exc)
            ) from exc
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise errors.StorageUnavailable("%s cannot be reached: %s" % (url, exc)) from exc
        LOG.debug(
            "%(method)s %(url)s: %(status)d",
            {"method": method, "url": url, "status": answer.status_code},
        )
        with answer:
            yield answer


class _Body:
    """An iterable with a length: requests sends that as Content-Length instead of chunks."""

    def __init__(self, chunks: Iterable[bytes], length: int) -> None:
        self._chunks = chunks
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __len__(self) -> int:
        return self._length


def _succeeded(answer: requests.Response) -> bool:
    # requests' own `ok` holds for redirects too; 207 has the failures of single members
    return 200 <= answer.status_code < 300 and answer.status_code != 207


def _refusal(where: str, answer: requests.Response) -> errors.StorageUnavailable:
    status = answer.status_code
    if 300 <= status < 400:
        advice = "redirects are not followed: name the storage's final URL"
    else:
        advice = _ADVICE.get(status, "see the server's log")
    return errors.StorageUnavailable(
        "%s answered %d to %s: %s" % (where, status, answer.request.method, advice)
    )
