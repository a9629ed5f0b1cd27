# SPDX-License-Identifier: Apache-2.0
"""Where a service step may send a disk: the storages that the ramdisk's configuration names.

Whoever may service a node chooses the step's ``url``. What comes out of here begins, character by
character, with what the operator configured, so that no two readings of a clever URL matter.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ipa_snapshot import errors
from snapshot_core.location import Location

_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")
_DEFAULT_PORTS = {"http": 80, "https": 443, "nfs": 2049}


@dataclass(frozen=True)
class Place:
    """A storage URL as it is compared: who serves it, and the decoded parts of its path."""

    scheme: str
    host: str
    port: int
    segments: tuple[str, ...]

    @classmethod
    def of(cls, url: object) -> "Place":
        """Parse a URL of a storage that a step may use: WebDAV or NFS, but no directory.

        :raises: InvalidRequest
        """
        location = Location.parse(url)
        if location.scheme not in _DEFAULT_PORTS:
            raise errors.InvalidRequest(
                "%s is a directory of the ramdisk: a service step stores to http(s):// or nfs://"
                % location
            )
        try:
            address = urlsplit("//" + location.host)
            host, port = address.hostname, address.port
        except ValueError as exc:
            raise errors.InvalidRequest("the host of %s is malformed" % location) from exc
        if host is None or not host.isascii():
            raise errors.InvalidRequest("the host of %s must be plain ASCII" % location)
        return cls(
            location.scheme, host, port or _DEFAULT_PORTS[location.scheme], _segments(location)
        )

    def same_server(self, other: "Place") -> bool:
        """Tell whether scheme, host and port are equal."""
        return (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)


def allowed_url(url: object, prefixes: Sequence[str]) -> str:
    """Return ``url``, rewritten to begin with the one of the ``prefixes`` that it lies below.

    :raises: InvalidRequest if it lies below none.
    """
    place = Place.of(url)
    for prefix in prefixes:
        allowed = Place.of(prefix)
        count = len(allowed.segments)
        if place.same_server(allowed) and place.segments[:count] == allowed.segments:
            below = [_plain(segment) for segment in place.segments[count:]]
            # Without the slash of nfs://host/, an export's root, there is no path.
            return "/".join([prefix.rstrip("/"), *below]) if below else prefix
    raise errors.InvalidRequest(
        "the url is not below a storage that this ramdisk allows (%s): leave it out, or let the "
        "operator add it to allowed_storage in [ipa_snapshot]" % ", ".join(prefixes)
    )


def _segments(location: Location) -> tuple[str, ...]:
    path = location.path.removeprefix("/")
    if not path:
        return ()
    encoded = location.scheme != "nfs"
    segments = tuple(unquote(part) if encoded else part for part in path.split("/"))
    for segment in segments:
        # Servers differ in what they make of these: some decode twice, some join slashes.
        if segment in ("", ".", "..") or not segment.isprintable() or re.search(r"[%/\\]", segment):
            raise errors.InvalidRequest(
                "the path of %s must be plain: no empty parts, no '.', no encoded slashes or "
                "percent signs" % location
            )
    return segments


def _plain(segment: str) -> str:
    if not _PLAIN_SEGMENT.fullmatch(segment):
        raise errors.InvalidRequest(
            "%r in the url: below the storage's own path only letters, digits and . _ ~ - are "
            "taken" % segment
        )
    return segment
