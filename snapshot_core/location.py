# SPDX-License-Identifier: Apache-2.0
"""Where images rest between the disk and Glance: parse the storage's URL and an image's name."""

import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from snapshot_core import errors

SCHEMES = ("http", "https", "nfs", "file")
PART_SUFFIX = ".part"
STOP_SUFFIX = ".stop"
MANIFEST_SUFFIX = ".json"
# 255 bytes are what file systems take.
NAME_LIMIT = 255 - len(PART_SUFFIX)
_NFS_SHORT = re.compile(
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.%]+\]):(?P<path>/(?!/).*)"
)
_BARE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_PATH_CHARS = "/%!$&'()*+,;=:@"  # RFC 3986, 3.3


@dataclass(frozen=True)
class Location:
    """A directory or collection that holds images; ``str()`` gives its URL, which has no secret.

    ``path`` is percent-encoded for ``http`` and ``https``, and plain for ``nfs`` and ``file``.
    """

    scheme: str
    host: str
    path: str

    def __str__(self) -> str:
        return "%s://%s%s" % (self.scheme, self.host, self.path)

    @classmethod
    def parse(cls, url: object) -> "Location":
        """Parse ``http(s)://host/path``, ``nfs://host/path``, ``host:/path`` or ``file:///path``.

        :raises: InvalidRequest, which never quotes a URL that holds credentials.
        """
        if not isinstance(url, str) or not url.isprintable() or "\\" in url or " " in url:
            raise errors.InvalidRequest(
                "the storage URL must be a text without spaces and control characters"
            )
        if (short := _NFS_SHORT.fullmatch(url)) and short["host"].lower() not in SCHEMES:
            return cls("nfs", short["host"], _plain_path(url, short["path"]))
        parts = _split(url)
        if parts is None:
            raise errors.InvalidRequest("the storage URL%s is malformed" % _quoted(url))
        if "@" in parts.netloc:
            raise errors.InvalidRequest(
                "the storage URL must not hold credentials: pass them in an auth file or in 'auth'"
            )
        if parts.scheme not in SCHEMES:
            raise errors.InvalidRequest(
                "unknown scheme in the storage URL%s: expected one of %s, or host:/path for NFS"
                % (_quoted(url), ", ".join(scheme + "://" for scheme in SCHEMES))
            )
        return cls._checked(url, parts, parts.hostname)

    @classmethod
    def _checked(cls, url: str, parts: SplitResult, host: str | None) -> "Location":
        if parts.query or parts.fragment:
            raise errors.InvalidRequest("the storage URL must not have a query or a fragment")
        if parts.scheme == "file" and host is not None:
            raise errors.InvalidRequest(
                "a file URL names no host: expected file:///path%s" % _quoted(url)
            )
        if parts.scheme != "file" and host is None:
            raise errors.InvalidRequest("the storage URL%s names no host" % _quoted(url))
        if host is not None and host.startswith("-"):
            # No name of a host does, and a program may take it for an option.
            raise errors.InvalidRequest(
                "the host of the storage URL%s must not begin with '-'" % _quoted(url)
            )
        if host is not None and not host.isascii():
            raise errors.InvalidRequest(
                "the host of the storage URL%s must be plain ASCII: write xn--..." % _quoted(url)
            )
        if parts.scheme in ("http", "https"):
            _refuse_dots(url, unquote(parts.path))
            return cls(parts.scheme, parts.netloc, _encoded_path(parts.path.rstrip("/")))
        return cls(parts.scheme, parts.netloc, _plain_path(url, unquote(parts.path)))


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port else None
    except ValueError:
        return None  # and not its message, which quotes the URL


def _quoted(url: str) -> str:
    """Return the URL for a message, or nothing where it may hold a secret."""
    return "" if any(char in url for char in "@?#") else " %r" % url


def check_image_name(name: object) -> str:
    """Return ``name`` if it is a plain file name that every storage can hold.

    :raises: InvalidRequest
    """
    if not isinstance(name, str) or not name:
        raise errors.InvalidRequest("the image name must be a text that is not empty")
    if "/" in name or name in (".", ".."):
        raise errors.InvalidRequest("the image name %r must be a plain file name" % name)
    if name.startswith("-"):
        raise errors.InvalidRequest("the image name %r must not begin with '-'" % name)
    if not name.isprintable() or "\\" in name:
        raise errors.InvalidRequest(
            "the image name %r must not hold control characters or backslashes" % name
        )
    if len(os.fsencode(name)) > NAME_LIMIT:
        raise errors.InvalidRequest(
            "the image name has %d bytes; at most %d are possible, because %r is added while "
            "it is written" % (len(os.fsencode(name)), NAME_LIMIT, PART_SUFFIX)
        )
    return name


def check_object_name(name: str) -> str:
    """Return ``name`` if it leads to nothing outside of the storage: it may have collections.

    Clients and servers resolve ``.`` and ``..`` before they look anything up.

    :raises: InvalidRequest
    """
    segments = name.removesuffix("/").split("/")
    if name and any(segment in ("", ".", "..") for segment in segments):
        raise errors.InvalidRequest("%r is not the name of an object in the storage" % name)
    return name


def part_name(name: str) -> str:
    """Return the name under which the image ``name`` is written until it is confirmed."""
    return name + PART_SUFFIX


def manifest_name(name: str) -> str:
    """Return the name of the JSON file that describes the image ``name`` once it is whole."""
    return name + MANIFEST_SUFFIX


def stop_name(name: str) -> str:
    """Return the name of the object that asks the agent to stop making the image ``name``.

    A running command of the agent's cannot be cancelled through its API.
    """
    return name + STOP_SUFFIX


def _encoded_path(path: str) -> str:
    """Percent-encode what is not encoded yet, as the headers that hold a URL want it.

    Of a path in which any '%' stands for itself, urllib3 2.8 would encode all of them again.
    """
    return quote(_BARE_PERCENT.sub("%25", path), safe=_PATH_CHARS)


def _plain_path(url: str, path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise errors.InvalidRequest("the storage URL%s must have an absolute path" % _quoted(url))
    _refuse_dots(url, path)
    return path.rstrip("/") or "/"


def _refuse_dots(url: str, path: str) -> None:
    if ".." in path.split("/"):
        raise errors.InvalidRequest(
            "the path of the storage URL%s must not hold '..'" % _quoted(url)
        )
