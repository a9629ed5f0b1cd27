# SPDX-License-Identifier: Apache-2.0
"""A WebDAV collection as the intermediate storage, spoken to directly."""

import contextlib
import itertools
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib import parse

import requests
import tenacity
import urllib3
from oslo_log import log

from snapshot_core import errors
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location, check_object_name
from snapshot_core.storage import parts, patience
from snapshot_core.storage.base import Storage
from snapshot_core.storage.connections import AnotherConnection, last_used, only_over
from snapshot_core.storage.exchange import Body, exchange, open_session
from snapshot_core.storage.refusals import refusal, succeeded

LOG = log.getLogger(__name__)

CHUNK = 1024 * 1024
# Connecting is quick or hopeless. A server may take its time between two of our blocks, and at
# the end, when it syncs what it has taken.
_TIMEOUT_S = (15, 300)
# Where only the end waits for it. A large object is not removed at once either.
_BRIEF_S = (15, 30)
# No server loses what it has and is back in so short a time, with nothing seen of that. To ask it
# costs a way there and back.
_QUIET_S = 1.0
_LENGTH = re.compile(r"[0-9]{1,18}")
# What a claimed object holds; a range written over its end shows whether the server takes ranges.
_CLAIM = b"claimed by ipa-snapshot"
_RANGE = b"ipa-snapshot, in ranges"
_RANGE_BEFORE_END = 12
# A server may have all of a request whose answer was not waited for, and do it a little later.
_LATE_S = 2.0


class WebdavStorage(Storage):
    """Objects are the members of one collection.

    Redirects are not followed: the storage is what the operator named, and the credentials go
    nowhere else. Proxies and ``.netrc`` of the environment are not used for the same reason.
    """

    def __init__(self, location: Location, credentials: Credentials | None, trust: Trust) -> None:
        self._location = location
        self._moves = True
        self._is_patient = False
        self._own = _Own()
        self._session = open_session(credentials, trust)
        self._claimed: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._session.close()

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """See :meth:`.Storage.patiently`."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False

    @contextlib.contextmanager
    def briefly(self) -> Iterator[None]:
        """See :meth:`.Storage.briefly`."""
        before, self._own.is_brief = self._own.is_brief, True
        try:
            yield
        finally:
            self._own.is_brief = before

    def _repeating(self) -> tenacity.Retrying:
        if self._own.is_brief:
            return patience.wait_if_asked_to(0)
        return patience.outlive_outages() if self._is_patient else patience.wait_if_asked_to()

    def describe(self, name: str) -> str:
        """See :meth:`.Storage.describe`."""
        return "%s/%s" % (self._location, parse.quote(name))

    def part(self, name: str) -> str:
        """See :meth:`.Storage.part`."""
        return super().part(name) if self._moves else name

    def check(self) -> None:
        """See :meth:`.Storage.check`."""
        patience.wait_if_asked_to()(self._check)

    def _check(self) -> None:
        with self._request("PROPFIND", "", headers={"Depth": "0"}) as answer:
            # 405: nginx 1.22 has PUT, MOVE and DELETE, but not this; what it has shows at once.
            # 501: so do servers that know no WebDAV at all.
            if answer.status_code not in (207, 405, 501):
                raise refusal(str(self._location), answer)

    def create(self, name: str) -> None:
        """See :meth:`.Storage.create`."""
        try:
            if self._moves:
                self._create_by_move(name)
            else:
                self._create_in_place(name)
        except _Taken as exc:
            raise errors.InvalidRequest(
                "%s exists: it is being written now, or was left by a snapshot that was cut "
                "short; choose another image name, or remove it" % self.describe(name)
            ) from exc
        except errors.WriteFailed as exc:
            raise errors.StorageUnavailable(str(exc)) from exc

    def _create_by_move(self, name: str) -> None:
        # Made under another name and moved: that proves, before hours of upload and not after
        # them, that the server moves, and it never overwrites, also where two come at once.
        probe = "ipa-snapshot-%s" % uuid.uuid4().hex
        try:
            self._put(probe, _CLAIM)
            self.rename(probe, name)
            self._claimed[name] = _CLAIM
        except _CannotMove as exc:
            self.discard(probe)
            LOG.warning(
                "%(reason)s. Images get their final names at once: one is whole only when the "
                "object with '.part' beside it is gone",
                {"reason": exc},
            )
            self._moves = False
            self._create_in_place(name)
        except BaseException:
            self.discard(probe)
            raise

    def _create_in_place(self, name: str) -> None:
        # The header makes it one step where the server honours it; nginx 1.22 does not.
        if self.exists(name):
            raise _Taken(self.describe(name))
        # Which of two is ours shows only by what it holds.
        claim = b"%s %s" % (_CLAIM, uuid.uuid4().hex.encode())
        headers = {"If-None-Match": "*"}
        try:
            with self._request("PUT", name, data=claim, headers=headers) as answer:
                if answer.status_code == 412:
                    raise _Taken(self.describe(name))
                if not succeeded(answer):
                    raise refusal(self.describe(name), answer)
        except _Taken:
            raise
        except BaseException:
            self._withdraw(name, claim)
            raise
        self._claimed[name] = claim

    def _withdraw(self, name: str, claim: bytes) -> None:
        """Remove a claim of ours that may have been made all the same; never raise, but log it."""
        time.sleep(_LATE_S)
        try:
            with self.briefly():
                if not self.exists(name):
                    return
                with self.read(name) as chunks:
                    is_ours = next(chunks, b"") == claim
        except errors.SnapshotError as exc:
            LOG.error(
                "%(where)s may be left behind: %(reason)s",
                {"where": self.describe(name), "reason": exc},
            )
            return
        if is_ours:
            self.discard(name)

    def size(self, name: str) -> int | None:
        """See :meth:`.Storage.size`."""
        return self._repeating()(self._size, name)

    def _size(self, name: str) -> int | None:
        # Apache 2.4 leaves the length of an empty object out of its answer to HEAD, not to GET.
        for method in ("HEAD", "GET"):
            with self._request(method, name) as answer:
                if answer.status_code == 404:
                    return None
                if answer.status_code != 200:
                    raise refusal(self.describe(name), answer)
                length = answer.headers.get("Content-Length", "")
            if _LENGTH.fullmatch(length):
                return int(length)
        raise errors.StorageUnavailable(
            "%s does not tell the size of %s" % (self._location, self.describe(name))
        )

    def exists(self, name: str) -> bool:
        """See :meth:`.Storage.exists`."""
        return self._repeating()(self._exists, name)

    def _exists(self, name: str) -> bool:
        # Not by the size: of an empty object Apache tells that only to who may read it.
        with self._request("HEAD", name) as answer:
            if answer.status_code not in (200, 404):
                raise refusal(self.describe(name), answer)
            return answer.status_code == 200

    def make_collection(self, name: str) -> None:
        """See :meth:`.Storage.make_collection`."""
        # With a slash at the end: without it nginx 1.22 answers 409.
        with self._request("MKCOL", name + "/") as answer:
            # 405: it is there; or may not be made, which shows as soon as it is used
            if answer.status_code != 405 and not succeeded(answer):
                raise refusal(self.describe(name), answer)

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        """See :meth:`.Storage.write`.

        What is larger than a part is written in parts where the server takes them, so that an
        outage costs one part and not all. At most one part is held in memory.
        """
        try:
            self._write(name, iter(chunks), length)
        except errors.StorageUnavailable as exc:
            raise errors.WriteFailed("writing to the storage broke off: %s" % exc) from exc

    def _write(self, name: str, chunks: Iterator[bytes], length: int | None) -> None:
        if length is None:
            head = parts.gather(chunks)
            if (size := sum(map(len, head))) < parts.PART:
                length = size
            chunks = itertools.chain(parts.consume(head), chunks)
        if (length is None or length > parts.PART) and self._takes_ranges(name):
            confirmed: _Confirmation | None = None
            for part in parts.split(chunks, length):
                confirmed = self._put_part(name, part, confirmed)
                part.drop()
        else:
            # without a length requests sends each chunk as one of the transfer encoding's
            self._put(name, chunks if length is None else Body(chunks, length))

    def write_small(self, name: str, content: bytes) -> None:
        """See :meth:`.Storage.write_small`."""
        try:
            self._repeating()(self._put, name, content)
        except errors.StorageUnavailable as exc:
            raise errors.WriteFailed("writing to the storage broke off: %s" % exc) from exc

    def _takes_ranges(self, name: str) -> bool:
        """Show by the content of the claimed object whether the server writes ranges into it.

        Its status would not do: a server that does not know ``Content-Range`` may answer 204 to
        it and replace the object (RFC 9110, 14.5).
        """
        if (claim := self._claimed.get(name)) is None:
            return False
        start = len(claim) - _RANGE_BEFORE_END
        try:
            self._put(name, _RANGE, _range(start, len(_RANGE)))
            with self.read(name) as chunks:
                found = b"".join(itertools.islice(chunks, 1))
        except (errors.StorageUnavailable, errors.WriteFailed) as exc:
            LOG.debug("No ranges: %(reason)s", {"reason": exc})
            return False
        return found == claim[:start] + _RANGE

    def _put_part(
        self, name: str, part: parts.Part, before: "_Confirmation | None"
    ) -> "_Confirmation":
        """Write a part, and return how it was confirmed.

        :param before: how the last one was.
        """

        def attempt() -> None:
            nonlocal before
            last, before = before, None
            if last is not None and time.monotonic() - last.at < _QUIET_S:
                # The server has read the last part to its end if it reads on behind it. Else its
                # end may have been lost on the way, and this part would leave a hole there.
                with contextlib.suppress(AnotherConnection), only_over(last.connection):
                    return self._send_part(name, part)
            if part.start:
                self._expect_beginning(name, part)
            self._send_part(name, part)

        patience.outlive_outages()(attempt)
        return _Confirmation(time.monotonic(), last_used())

    def _send_part(self, name: str, part: parts.Part) -> None:
        with self._request("PUT", name, data=part, headers=_range(part.start, len(part))) as answer:
            if not succeeded(answer):
                raise refusal(self.describe(name), answer)
            if part.start and answer.status_code == 201:  # it made the object, with a hole
                raise self._mismatch(name, part, None)

    def _expect_beginning(self, name: str, part: parts.Part) -> None:
        # Apache 2.4 fills what it does not have with zeros: after an outage the object may be
        # another, or shorter. A part that was sent before may be there, in part or whole.
        found = self._size(name)
        if found is None or not part.start <= found <= part.end:
            raise self._mismatch(name, part, found)

    def _mismatch(self, name: str, part: parts.Part, found: int | None) -> errors.StorageMismatch:
        return errors.StorageMismatch(
            self.describe(name), "%d bytes so far" % part.start,
            None if found is None else "%d bytes" % found,
        )  # fmt: skip

    def _put(self, name: str, body: Any, headers: Mapping[str, str] | None = None) -> None:
        with self._request("PUT", name, data=body, headers=headers) as answer:
            if not succeeded(answer):
                raise refusal(self.describe(name), answer)

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[Iterator[bytes]]:
        """See :meth:`.Storage.read`."""
        with contextlib.ExitStack() as stack:
            answer = patience.wait_if_asked_to(0 if self._own.is_brief else None)(
                self._open, name, stack
            )
            yield self._chunks(name, answer)

    def _open(self, name: str, stack: contextlib.ExitStack) -> requests.Response:
        with contextlib.ExitStack() as opening:
            answer = opening.enter_context(self._request("GET", name))
            if answer.status_code != 200:
                raise refusal(self.describe(name), answer)
            stack.push(opening.pop_all())
            return answer

    def _chunks(self, name: str, answer: requests.Response) -> Iterator[bytes]:
        try:
            # As they came: what was stored is wanted, and not what it is said to unpack to.
            while chunk := answer.raw.read(CHUNK, decode_content=False):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise errors.StorageUnavailable(
                "reading %s broke off: %s" % (self.describe(name), exc)
            ) from exc

    def rename(self, name: str, new_name: str) -> None:
        """See :meth:`.Storage.rename`."""
        # One that got no answer may still be on its way, and let the next one find nothing.
        doubtful: tuple[type[Exception], ...] = (patience.Away, _MayHaveMoved)

        def attempt() -> None:
            nonlocal doubtful
            try:
                self._move(name, new_name)
            except doubtful as exc:
                doubtful = (errors.SnapshotError,)
                if not self._has_moved(name, new_name, patience.outlive_outages()):
                    raise
                LOG.warning("It was renamed all the same: %(reason)s", {"reason": exc})

        try:
            patience.outlive_outages()(attempt)
        except KeyboardInterrupt:
            if self._has_moved(name, new_name, patience.wait_if_asked_to()):
                self.discard(new_name)
            raise

    def _move(self, name: str, new_name: str) -> None:
        # A full URL, since Apache 2.4 answers 400 to a path, which the RFC allows.
        headers = {"Destination": self.describe(check_object_name(new_name)), "Overwrite": "F"}
        with self._request("MOVE", name, headers=headers) as answer:
            if answer.status_code == 412:
                raise _Taken(
                    "%s appeared meanwhile and is not overwritten" % self.describe(new_name)
                )
            if not succeeded(answer):
                raise _move_error(answer.status_code)(str(refusal(self.describe(new_name), answer)))

    def _has_moved(self, name: str, new_name: str, retrying: tenacity.Retrying) -> bool:
        try:
            return not retrying(self._exists, name) and retrying(self._exists, new_name)
        except errors.SnapshotError as exc:
            LOG.error(
                "%(where)s may be left behind: %(reason)s",
                {"where": self.describe(new_name), "reason": exc},
            )
            return False

    def remove(self, name: str) -> None:
        """See :meth:`.Storage.remove`."""
        retrying = self._repeating()
        if self._own.is_brief:
            # What is left behind blocks a name, or passes for an image: that is worth some time.
            brief = patience.wait_if_asked_to(_BRIEF_S[1])
            retrying = patience.outlive_outages() if self._is_patient else brief
        retrying(self._remove, name)

    def _remove(self, name: str) -> None:
        with self._request("DELETE", name) as answer:
            if answer.status_code != 404 and not succeeded(answer):
                raise errors.WriteFailed(str(refusal(self.describe(name), answer)))

    def _request(
        self, method: str, name: str, **options: Any
    ) -> contextlib.AbstractContextManager[requests.Response]:
        url = self.describe(check_object_name(name))
        timeout_s = _BRIEF_S if self._own.is_brief else _TIMEOUT_S
        return exchange(self._session, method, url, timeout_s, **options)


class _Own(threading.local):
    """What is another thing in each thread."""

    is_brief = False


@dataclass(frozen=True)
class _Confirmation:
    """When, and over which connection, the server confirmed a part."""

    at: float
    connection: object


class _Taken(errors.InvalidRequest):
    """There is an object of that name already."""


class _CannotMove(errors.WriteFailed):
    """The server does not know how to rename."""


class _MayHaveMoved(errors.WriteFailed):
    """The server, or a proxy before it, failed: it may have renamed all the same."""


def _move_error(status: int) -> type[errors.WriteFailed]:
    if status in (405, 501):
        return _CannotMove
    return _MayHaveMoved if status >= 500 else errors.WriteFailed


def _range(start: int, length: int) -> dict[str, str]:
    # RFC 9110, 14.4; the whole size is not known
    return {"Content-Range": "bytes %d-%d/*" % (start, start + length - 1)}
