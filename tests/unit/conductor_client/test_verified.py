# SPDX-License-Identifier: Apache-2.0
"""Nobody who is sent a wrong image ever has the whole of it."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from conductor_client import errors
from conductor_client.verified import VerifiedImage
from snapshot_core.encryption import PrivateKey, encrypted
from snapshot_core.progress import Meter, Progress
from tests.unit.memory_storage import MemoryStorage

DATA = b"0123456789"
SHA512 = hashlib.sha512(DATA).hexdigest()


def _image(stored: bytes, size: int = len(DATA), meter: Meter | None = None) -> VerifiedImage:
    return VerifiedImage(MemoryStorage({"image": stored}, 4), "image", size, SHA512, meter=meter)


def test_a_right_image_is_passed_on_as_it_is() -> None:
    image = _image(DATA)
    assert list(image) == [b"0123", b"4567", b"89"]
    assert len(image) == 10


def test_it_can_be_read_again_for_a_request_that_is_repeated() -> None:
    image = _image(DATA)
    assert next(iter(image)) == b"0123"
    assert b"".join(image) == DATA
    assert b"".join(image) == DATA


@pytest.mark.parametrize(
    ("stored", "passed", "found"),
    [
        (b"0123456780", b"01234567", "sha512"),
        (b"X123456789", b"X1234567", "sha512"),
        (b"012345678", b"01234567", "holds 9 bytes or more, expected 10 bytes"),
        (b"0123", b"", "holds 4 bytes or more, expected 10 bytes"),
        (b"", b"", "holds 0 bytes or more, expected 10 bytes"),
        (b"0123456789X", b"0123", "holds 11 bytes or more, expected 10 bytes"),
        (b"0123456789XYZ", b"01234567", "holds 12 bytes or more, expected 10 bytes"),
        (DATA * 100, b"01234567", "bytes or more, expected 10 bytes"),
    ],
)
def test_of_a_wrong_image_the_last_block_is_held_back(
    stored: bytes, passed: bytes, found: str
) -> None:
    sent = b""
    with pytest.raises(errors.StorageMismatch, match="memory:image holds") as caught:
        for chunk in _image(stored):
            sent += chunk
    assert found in str(caught.value)
    assert len(sent) < len(DATA)
    assert passed.startswith(sent)


def test_an_image_of_one_block_is_not_passed_on_at_all_if_it_is_wrong() -> None:
    image = VerifiedImage(MemoryStorage({"image": b"wrong data"}, 100), "image", 10, SHA512)
    with pytest.raises(errors.StorageMismatch, match=SHA512):
        next(iter(image))


def test_an_image_that_is_encrypted_in_the_storage_is_passed_on_as_it_was() -> None:
    key = PrivateKey(X25519PrivateKey.generate())
    stored = b"".join(encrypted([DATA], key.public))
    storage = MemoryStorage({"image": stored, "changed": stored[:-1] + b"X"}, 4)
    assert b"".join(VerifiedImage(storage, "image", len(DATA), SHA512, key=key)) == DATA
    with pytest.raises(errors.StorageMismatch, match="changed"):
        next(iter(VerifiedImage(storage, "changed", len(DATA), SHA512, key=key)))


def test_an_empty_block_at_the_end_holds_nothing_less_back() -> None:
    key = PrivateKey(X25519PrivateKey.generate())
    stored = b"".join(encrypted([b"0123456780", b""], key.public))
    with pytest.raises(errors.StorageMismatch):
        next(iter(VerifiedImage(MemoryStorage({"image": stored}), "image", 10, SHA512, key=key)))


def test_a_storage_that_fails_is_told() -> None:
    with pytest.raises(errors.StorageUnavailable, match="no memory:other"):
        list(VerifiedImage(MemoryStorage(), "other", 10, SHA512))


def test_progress_counts_what_was_passed_on() -> None:
    told: list[Progress] = []
    clock = iter(range(100))
    meter = Meter(told.append, lambda: float(next(clock)))
    meter.phase("upload", 10)
    list(_image(DATA, meter=meter))
    assert (told[-1].bytes_done, told[-1].bytes_sent, told[-1].bytes_total) == (10, 10, 10)
