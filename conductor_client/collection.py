# SPDX-License-Identifier: Apache-2.0
"""What lies in a collection of the storage: list its members, and remove it when it has none.

The machine's side never lists, and its account cannot: this is the other side's alone.
"""

import datetime
import email.utils
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib import parse
from xml.etree import ElementTree  # see where it parses  # nosec B405

import urllib3
from oslo_log import log

from conductor_client import errors
from conductor_client.access import StorageAccess
from snapshot_core.storage.base import Storage
from snapshot_core.storage.exchange import exchange, open_session
from snapshot_core.storage.refusals import refusal

LOG = log.getLogger(__name__)

_TIMEOUT_S = (15, 300)
# Some 20,000 members.
_ANSWER_LIMIT = 16 * 1024 * 1024
# What a claim or a check makes and takes away at once; a power cut in between leaves it.
_PROBE = re.compile(r"ipa-snapshot-[0-9a-f]{32}(\.part)?")
_ASKED = (
    b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><getlastmodified/><resourcetype/></prop>'
    b"</propfind>"
)


@dataclass(frozen=True)
class Member:
    """An object or a collection; ``age_s`` is the time since it was changed, in seconds."""

    name: str
    age_s: float
    is_collection: bool


def members(access: StorageAccess, storage: Storage, collection: str = "") -> list[Member]:
    """Return what is in a ``collection`` of an open storage, or in the storage itself.

    A collection that is gone has no members.

    :raises: StorageUnavailable, also where the server cannot list (nginx 1.22 without modules)
    """
    directory = storage.local_path(collection)
    if directory is None:
        return _in_webdav(access, collection)
    return _in_directory(directory, may_be_gone=bool(collection))


def is_probe(name: str) -> bool:
    """Tell whether an object is the rest of a claim."""
    return _PROBE.fullmatch(name) is not None


def remove_if_empty(access: StorageAccess, storage: Storage, collection: str) -> None:
    """Remove a ``collection`` that has no members but probes.

    Never raises: a collection that stays does no harm.
    """
    directory = storage.local_path(collection)
    try:
        if directory is not None:
            directory.rmdir()
        elif all(is_probe(member.name) for member in _in_webdav(access, collection)):
            # DELETE takes the members too. Nobody makes any now: a node has one service at a time.
            storage.remove(collection + "/")
    except (OSError, errors.SnapshotError) as exc:
        LOG.debug("%(what)s stays: %(reason)s", {"what": collection, "reason": exc})


def _in_directory(directory: Path, *, may_be_gone: bool) -> list[Member]:
    now = time.time()
    try:
        return [
            Member(path.name, now - path.lstat().st_mtime, path.is_dir())
            for path in sorted(directory.iterdir())
            if not path.is_symlink()
        ]
    except OSError as exc:
        if may_be_gone and isinstance(exc, FileNotFoundError):
            return []
        raise errors.StorageUnavailable("%s cannot be listed: %s" % (directory, exc)) from exc


def _in_webdav(access: StorageAccess, collection: str) -> list[Member]:
    url = "/".join([str(access.location).rstrip("/"), *filter(None, [collection]), ""])
    headers = {"Depth": "1", "Content-Type": "application/xml"}
    with (
        open_session(access.credentials, access.trust) as session,
        exchange(session, "PROPFIND", url, _TIMEOUT_S, data=_ASKED, headers=headers) as answer,
    ):
        if collection and answer.status_code == 404:
            return []
        if answer.status_code != 207:
            raise refusal(url, answer)
        try:
            # urllib3 2.2 would unpack all of it, however large that becomes
            body = answer.raw.read(_ANSWER_LIMIT + 1, decode_content=False)
            # an end that is none is only told by the read after it
            answer.raw.read(1, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise errors.StorageUnavailable("listing %s broke off: %s" % (url, exc)) from exc
        date = answer.headers.get("Date")
    if len(body) > _ANSWER_LIMIT:
        raise errors.StorageUnavailable("%s has too many members to be listed" % url)
    # Ages by the server's own clock, which need not be that of this machine.
    now = _seconds(date) or time.time()
    try:
        # The server is the operator's; Python's expat bounds what entities may expand to.
        root = ElementTree.fromstring(body)  # noqa: S314  # nosec B314
    except ElementTree.ParseError as exc:
        raise errors.StorageUnavailable("%s does not list as WebDAV does: %s" % (url, exc)) from exc
    own_path = parse.unquote(parse.urlsplit(url).path).rstrip("/")
    found = (_member(entry, now) for entry in root.iter("{DAV:}response"))
    return [member for path, member in found if path != own_path]


def _member(entry: ElementTree.Element, now: float) -> tuple[str, Member]:
    """Return the path of one entry of the server's answer, and what it says of it."""
    href = entry.findtext("{DAV:}href") or ""
    path = parse.unquote(parse.urlsplit(href.strip()).path).rstrip("/")
    changed = _seconds(entry.findtext(".//{DAV:}getlastmodified"))
    # What has no time is as young as can be: nothing is removed for its age that is not known.
    age_s = now - changed if changed is not None else 0.0
    return path, Member(
        path.rpartition("/")[2], age_s, entry.find(".//{DAV:}collection") is not None
    )


def _seconds(date: str | None) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date or "")
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
