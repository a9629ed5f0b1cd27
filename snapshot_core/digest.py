# SPDX-License-Identifier: Apache-2.0
"""HTTP Digest authentication (RFC 7616), for bodies that cannot be sent twice.

``requests.auth.HTTPDigestAuth`` answers a 401 by sending the same body again, which a stream has
lost by then, and reads whatever comes with that 401 into memory.
"""

import hashlib
import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import requests
from requests.auth import AuthBase

# The best first. What a server asks for without an algorithm is MD5.
_HASHES = {"sha-256": "sha256", "md5": "md5"}
# A quoted text that does not end ends with the header: so this takes no longer than that is.
_ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.?)*(?:"|$))+')
_ATTRIBUTE = re.compile(r'\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))\s*')
_SCHEME = re.compile(r"\s*([\w-]+)(?:\s+([^\s=].*))?\s*")


@dataclass(frozen=True)
class _Challenge:
    realm: str
    nonce: str
    algorithm: str | None
    opaque: str | None
    uses: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def hash_name(self) -> str | None:
        return _HASHES.get((self.algorithm or "MD5").lower())

    @classmethod
    def parse(cls, attributes: Mapping[str, str]) -> "_Challenge | None":
        """Return the challenge, if it is one that can be answered."""
        kinds = attributes.get("qop", "").replace(" ", "").split(",")
        if "auth" not in kinds or not {"realm", "nonce"} <= set(attributes):
            return None
        challenge = cls(
            attributes["realm"], attributes["nonce"],
            attributes.get("algorithm"), attributes.get("opaque"),
        )  # fmt: skip
        return challenge if challenge.hash_name else None


class DigestAuth(AuthBase):
    """Answers the server's last challenge, in each request; without one, sends nothing.

    The password itself is never sent, nor anything as Basic. Threads may share it.
    """

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password
        self._challenge: _Challenge | None = None

    @property
    def is_challenged(self) -> bool:
        """Whether there is a challenge to answer."""
        return self._challenge is not None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Let the ``request`` carry the answer."""
        challenge = self._challenge  # which another thread may forget
        if challenge is not None:
            header = self._answer(challenge, request.method or "", request.path_url)
            # bytes, because http.client would encode text as latin-1
            request.headers["Authorization"] = header.encode()  # type: ignore[assignment]
        return request

    def learn(self, answer: requests.Response) -> bool:
        """Take the challenge from a 401, and tell whether there was one that can be answered."""
        # Each on its own: requests joins several headers of a name into one.
        headers = answer.raw.headers.getlist("WWW-Authenticate")
        found = [
            challenge
            for header in headers
            for attributes in _digest_challenges(header)
            if (challenge := _Challenge.parse(attributes))
        ]
        if found:
            ranks = list(_HASHES.values())
            self._challenge = min(found, key=lambda one: ranks.index(str(one.hash_name)))
        return bool(found)

    def forget(self) -> None:
        """Answer the last challenge no more: the server may be another by now."""
        self._challenge = None

    def _answer(self, challenge: _Challenge, method: str, target: str) -> str:
        digest = _hasher(str(challenge.hash_name))
        count, cnonce = "%08x" % next(challenge.uses), secrets.token_hex(16)
        a1 = digest("%s:%s:%s" % (self._username, challenge.realm, self._password))
        a2 = digest("%s:%s" % (method, target))
        response = digest(":".join((a1, challenge.nonce, count, cnonce, "auth", a2)))
        quoted = {
            "username": self._username, "realm": challenge.realm, "nonce": challenge.nonce,
            "uri": target, "response": response, "cnonce": cnonce, "opaque": challenge.opaque,
        }  # fmt: skip
        words = ["%s=%s" % (key, _quoted(text)) for key, text in quoted.items() if text is not None]
        words += ["qop=auth", "nc=%s" % count]
        if challenge.algorithm is not None:
            words.append("algorithm=%s" % challenge.algorithm)
        return "Digest " + ", ".join(words)


def _digest_challenges(header: str) -> Iterator[dict[str, str]]:
    """Yield the attributes of each Digest challenge; one header may have several schemes."""
    attributes: dict[str, str] | None = None
    for item in _ITEM.findall(header):
        if begin := _SCHEME.fullmatch(item):
            if attributes is not None:
                yield attributes
            attributes = {} if begin[1].lower() == "digest" else None
            item = begin[2] or ""  # noqa: PLW2901
        if attributes is not None and (found := _ATTRIBUTE.fullmatch(item)):
            value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
            attributes[found[1].lower()] = value
    if attributes is not None:
        yield attributes


def _hasher(name: str) -> Callable[[str], str]:
    # MD5 is what most servers know; a machine in FIPS mode wants to hear that it protects nothing
    return lambda text: hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()


def _quoted(text: str) -> str:
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')
