# SPDX-License-Identifier: Apache-2.0
"""An image that only the holder of a private key can read, as a stream in either direction.

The machine knows a public key alone, so that nothing secret is sent to it or lies in its ramdisk::

    magic (16 bytes) | ephemeral public key (32) | segments of 256 KiB, each with its tag (16)

The key of an image is that of HKDF-SHA256 over an X25519 exchange between a key pair that exists
for this image alone and the public key. A segment is sealed by AES-256-GCM; its nonce is its number
and whether it is the last, so that none can be changed, moved, dropped or added unseen. This is the
construction STREAM of Hoang, Reyhanitabar, Rogaway and Vizár ("Online Authenticated-Encryption and
its Nonce-Reuse Misuse-Resistance", 2015).
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from snapshot_core import errors
from snapshot_core.credentials import read_secret_file

_METHOD = "x25519-aes256gcm"
_MAGIC = b"ipa-snapshot-1\r\n"
_KEY_SIZE = 32
_HEADER_SIZE = len(_MAGIC) + _KEY_SIZE
_SEGMENT = 256 * 1024
_TAG = 16


@dataclass(frozen=True)
class PublicKey:
    """For whom an image is encrypted; as text it is the 32 bytes of an X25519 key in base64."""

    raw: bytes

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read the text.

        :raises: InvalidRequest
        """
        try:
            raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except (ValueError, binascii.Error):
            raw = b""
        # RFC 7748, 6.1: a key of small order would make every image's key the same
        if len(raw) != _KEY_SIZE or not any(raw):
            raise errors.InvalidRequest(
                "%r is not a public key: expected the 32 bytes of an X25519 key in base64" % (text,)
            )
        return cls(raw)

    @classmethod
    def from_wire(cls, raw: Any) -> Self:
        """Read the ``encryption`` of a manifest, which :meth:`to_wire` returned.

        :raises: KeyError, TypeError, ValueError, InvalidRequest
        """
        if raw["method"] != _METHOD:
            raise ValueError("unknown encryption")
        return cls.parse(raw["public_key"])

    def to_wire(self) -> dict[str, Any]:
        """Return what a manifest says of an image that was encrypted."""
        return {"method": _METHOD, "public_key": str(self)}

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()


class PrivateKey:
    """Who can read images that were encrypted for :attr:`public`."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(_raw(key.public_key()))

    def __repr__(self) -> str:
        return "<private key of %s>" % self.public

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a file of mode 600 that holds the key as ``openssl genpkey`` writes it.

        :raises: InvalidRequest
        """
        try:
            key = serialization.load_pem_private_key(read_secret_file(path).encode(), None)
        except (ValueError, TypeError) as exc:
            raise errors.InvalidRequest(
                "%s is not a private key without a passphrase" % path
            ) from exc
        if not isinstance(key, X25519PrivateKey):
            raise errors.InvalidRequest(
                "%s is another kind of key: make one by 'openssl genpkey -algorithm X25519'" % path
            )
        return cls(key)

    @classmethod
    def read_if_given(cls, path: str | None) -> Self | None:
        """Read a file as :meth:`read` does, if there is one.

        :raises: InvalidRequest
        """
        return cls.read(path) if path else None

    def exchange(self, public: PublicKey) -> bytes:
        """Return the secret that both key pairs have in common.

        :raises: ValueError for a public key that has none with anybody.
        """
        return self._key.exchange(X25519PublicKey.from_public_bytes(public.raw))


def encrypted_size(size: int) -> int:
    """Return how many bytes an image of ``size`` bytes has when it is encrypted."""
    segments = max(1, -(-size // _SEGMENT))
    return _HEADER_SIZE + size + segments * _TAG


def encrypted(chunks: Iterable[bytes], public: PublicKey) -> Iterator[bytes]:
    """Yield an image encrypted, in pieces of a segment.

    :raises: InvalidRequest for a key of small order.
    """
    ephemeral = PrivateKey(X25519PrivateKey.generate())
    try:
        cipher = _cipher(ephemeral.exchange(public), ephemeral.public, public)
    except ValueError as exc:
        raise errors.InvalidRequest("%s is not a public key that can be used" % public) from exc
    yield _MAGIC + ephemeral.public.raw
    for number, last, segment in _segments(chunks, _SEGMENT):
        yield cipher.encrypt(_nonce(number, last), segment, None)


def decrypted(chunks: Iterable[bytes], private: PrivateKey, where: str) -> Iterator[bytes]:
    """Yield the image again; what is yielded before an error is authentic, and not the whole.

    :param where: of the encrypted image, for messages.
    :raises: StorageMismatch if it was changed or cut, or was not encrypted for this key.
    """
    coming = _Pieces(chunks)
    header = coming.take(_HEADER_SIZE)
    if len(header) != _HEADER_SIZE or not header.startswith(_MAGIC):
        raise errors.StorageMismatch(where, "an encrypted image", "something else")
    theirs = PublicKey(header[len(_MAGIC) :])
    try:
        cipher = _cipher(private.exchange(theirs), theirs, private.public)
        for number, last, segment in _segments(coming, _SEGMENT + _TAG):
            yield cipher.decrypt(_nonce(number, last), segment, None)
    except (InvalidTag, ValueError) as exc:
        raise errors.StorageMismatch(
            where, "an image encrypted for %s" % private.public,
            "one that was changed, cut, or encrypted for another key",
        ) from exc  # fmt: skip


def _cipher(secret: bytes, ephemeral: PublicKey, recipient: PublicKey) -> AESGCM:
    salt = ephemeral.raw + recipient.raw
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, _MAGIC).derive(secret))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class _Pieces:
    """Takes exact numbers of bytes from chunks of any size; iterates over what is left."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = bytearray()

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or what there is."""
        while len(self._held) < size and (chunk := next(self._chunks, None)) is not None:
            self._held += chunk
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(self._held)
        yield from self._chunks


def _segments(chunks: Iterable[bytes], size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Yield the number of each segment, whether it is the last, and its bytes."""
    pieces = _Pieces(chunks)
    number, segment = 0, pieces.take(size)
    while following := pieces.take(size):
        yield number, False, segment
        number, segment = number + 1, following
    yield number, True, segment
