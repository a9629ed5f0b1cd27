# SPDX-License-Identifier: Apache-2.0
"""The account at the intermediate storage, and how its server is trusted.

Secrets arrive in a file or in a command's ``auth``, are held by values that do not print
themselves, and leave in an ``Authorization`` header only.
"""

import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
import yaml
from oslo_log import log
from requests.auth import HTTPBasicAuth

from snapshot_core import errors
from snapshot_core.digest import DigestAuth

LOG = log.getLogger(__name__)

_FIELDS = ({"username", "password"}, {"username", "password", "scheme"}, {"token"})
_SCHEMES = ("basic", "digest")
_FILE_LIMIT = 64 * 1024


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user name and a password, or a bearer token; prints as ``<credentials>``.

    ``scheme`` says how the password is sent: ``basic``, which is the default, or ``digest``.
    """

    username: str | None = None
    password: str | None = None
    token: str | None = None
    scheme: str | None = None

    def __repr__(self) -> str:
        return "<credentials>"

    @classmethod
    def parse(cls, raw: object) -> "Credentials":
        """Make credentials of a mapping with ``username`` and ``password``, or ``token``.

        Beside a password there may be a ``scheme``.

        :raises: InvalidRequest, which never quotes a value.
        """
        if not isinstance(raw, Mapping) or set(raw) not in _FIELDS:
            raise errors.InvalidRequest(
                "credentials must hold either 'username' and 'password', with or without 'scheme', "
                "or 'token'"
            )
        if not all(_is_header_text(value) for value in raw.values()):
            raise errors.InvalidRequest(
                "each of the credentials' values must be a text of one line that is not empty"
            )
        if ":" in raw.get("username", "") or not raw.get("token", "").isascii():
            raise errors.InvalidRequest(
                "a user name cannot hold a colon, nor a token other than ASCII characters"
            )
        if raw.get("scheme", "basic") not in _SCHEMES:
            raise errors.InvalidRequest(
                "the credentials' 'scheme' must be one of %s" % ", ".join(_SCHEMES)
            )
        return cls(**raw)

    @property
    def is_digest(self) -> bool:
        """Whether the password proves itself by HTTP Digest, and is never sent."""
        return self.scheme == "digest"

    @classmethod
    def read(cls, path: str) -> "Credentials":
        """Read an auth file (YAML or JSON) that only its owner may read.

        :raises: InvalidRequest
        """
        return cls.parse(_load_yaml(path, read_secret_file(path)))

    def to_wire(self) -> dict[str, str]:
        """Return the mapping that :meth:`parse` takes: the agent command's ``auth``."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def apply(self, session: requests.Session) -> None:
        """Let every request of the ``session`` carry these credentials."""
        if self.token is not None:
            session.headers["Authorization"] = "Bearer " + self.token
        elif self.username is not None and self.password is not None and self.is_digest:
            session.auth = DigestAuth(self.username, self.password)
        elif self.username is not None and self.password is not None:
            # bytes, because requests would encode text as latin-1
            session.auth = HTTPBasicAuth(self.username.encode(), self.password.encode())


@dataclass(frozen=True)
class Trust:
    """How a server's certificate is verified.

    ``cacert`` is the path of a PEM file that is used in place of the system's authorities;
    ``insecure`` turns the verification off.

    :raises: InvalidRequest if the file does not exist, or holds no certificates in PEM.
    """

    cacert: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.cacert is None:
            return
        if not Path(self.cacert).is_file():
            raise errors.InvalidRequest("the CA file %s does not exist" % self.cacert)
        try:
            # as requests does with each connection, where it looks like a server's fault
            ssl.create_default_context(cafile=self.cacert)
        except OSError as exc:
            raise errors.InvalidRequest(
                "the CA file %s holds no certificates in PEM that can be read: %s"
                % (self.cacert, exc)
            ) from exc

    def apply(self, session: requests.Session) -> None:
        """Let the ``session`` verify its servers so."""
        session.verify = (self.cacert or True) if not self.insecure else False
        if self.insecure:
            LOG.warning("The server's certificate is not verified, as was asked for")
            # once is enough: urllib3 would say it for every request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


def is_untrusted(exc: BaseException) -> bool:
    """Tell whether a request failed because the server's certificate is not trusted.

    requests has the same SSLError for a TLS connection that was cut.
    """
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def read_secret_file(path: str) -> str:
    """Return the text of a file that nobody but its owner may read.

    :raises: InvalidRequest
    """
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise errors.InvalidRequest(
                    "%s can be read by others than its owner: chmod 600 %s" % (path, path)
                )
            return file.read(_FILE_LIMIT)
    except (OSError, UnicodeDecodeError) as exc:
        raise errors.InvalidRequest("%s cannot be read: %s" % (path, exc)) from exc


def _load_yaml(path: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        pass
    # Not raised above, since the parser's message quotes the file, which holds a secret.
    raise errors.InvalidRequest("%s is neither YAML nor JSON" % path)


def _is_header_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()
