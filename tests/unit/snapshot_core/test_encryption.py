# SPDX-License-Identifier: Apache-2.0
import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from snapshot_core import encryption, errors
from snapshot_core.encryption import PrivateKey, PublicKey

KEY = PrivateKey(X25519PrivateKey.generate())
SEGMENT = 256 * 1024
IMAGE = bytes(range(256)) * 2048 + b"the rest"


def sealed(image: bytes = IMAGE) -> bytes:
    return b"".join(encryption.encrypted([image], KEY.public))


def opened(data: bytes, key: PrivateKey = KEY) -> bytes:
    return b"".join(encryption.decrypted([data], key, "image"))


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@given(
    size=st.one_of(st.integers(0, 3 * SEGMENT), st.sampled_from([SEGMENT, SEGMENT + 1])),
    written=st.integers(1000, 2 * SEGMENT),
    read=st.integers(1000, 2 * SEGMENT),
)
def test_an_image_of_any_size_in_any_pieces_comes_back(size: int, written: int, read: int) -> None:
    image = (IMAGE * 2)[:size]
    data = b"".join(encryption.encrypted(in_pieces(image, written), KEY.public))
    assert len(data) == encryption.encrypted_size(size)
    assert b"".join(encryption.decrypted(in_pieces(data, read), KEY, "image")) == image


def test_no_piece_of_the_image_can_be_seen_and_no_two_are_alike() -> None:
    first, second = sealed(), sealed()
    assert first[48:] != second[48:]
    assert IMAGE[:64] not in first


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(errors.StorageMismatch, match="another key"):
        opened(sealed(), PrivateKey(X25519PrivateKey.generate()))


@pytest.mark.parametrize("at", [20, 100, SEGMENT + 100, -1])
def test_a_bit_that_flips_anywhere_is_seen(at: int) -> None:
    data = bytearray(sealed())
    data[at] ^= 1
    with pytest.raises(errors.StorageMismatch, match="changed"):
        opened(bytes(data))


@pytest.mark.parametrize(
    "cut", [0, 10, 48, 48 + SEGMENT + 16, 48 + 2 * (SEGMENT + 16), len(sealed()) - 1]
)
def test_an_image_that_was_cut_is_no_image(cut: int) -> None:
    with pytest.raises(errors.StorageMismatch):
        opened(sealed()[:cut])


def test_segments_cannot_change_places() -> None:
    data, size = sealed(), SEGMENT + 16
    swapped = data[:48] + data[48 + size : 48 + 2 * size] + data[48 : 48 + size]
    with pytest.raises(errors.StorageMismatch):
        opened(swapped + data[48 + 2 * size :])


def test_bytes_at_the_end_are_seen() -> None:
    with pytest.raises(errors.StorageMismatch):
        opened(sealed() + b"more")


def test_a_plain_image_is_not_taken_for_an_encrypted_one() -> None:
    with pytest.raises(errors.StorageMismatch, match="something else"):
        opened(IMAGE)


def test_a_sender_s_key_of_small_order_is_refused() -> None:
    data = sealed()
    with pytest.raises(errors.StorageMismatch):
        opened(data[:16] + b"\1" + bytes(31) + data[48:])


@pytest.mark.parametrize(
    "text", ["", "secret", "AAAA", base64.b64encode(bytes(32)).decode(), "A" * 44]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="not a public key"):
        PublicKey.parse(text)


def test_a_public_key_of_small_order_is_refused() -> None:
    public = PublicKey.parse(base64.b64encode(b"\1" + bytes(31)).decode())
    with pytest.raises(errors.InvalidRequest, match="is not a public key that can be used"):
        next(encryption.encrypted([IMAGE], public))


def key_file(tmp_path: Path, *arguments: str) -> Path:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(subprocess.check_output(["openssl", "genpkey", *arguments]))
    return path


def test_openssl_makes_a_private_key(tmp_path: Path) -> None:
    key = PrivateKey.read(str(key_file(tmp_path, "-algorithm", "X25519")))
    public = PublicKey.parse(str(key.public))
    assert opened(b"".join(encryption.encrypted([IMAGE], public)), key) == IMAGE


def test_a_private_key_is_not_shown(tmp_path: Path) -> None:
    assert repr(KEY) == "<private key of %s>" % KEY.public


def test_another_kind_of_private_key_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, "-algorithm", "ED25519")
    with pytest.raises(errors.InvalidRequest, match="openssl genpkey -algorithm X25519"):
        PrivateKey.read(str(path))


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_text("secret")
    with pytest.raises(errors.InvalidRequest, match="is not a private key"):
        PrivateKey.read(str(path))


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, "-algorithm", "X25519")
    path.chmod(0o644)
    with pytest.raises(errors.InvalidRequest, match="600"):
        PrivateKey.read(str(path))
