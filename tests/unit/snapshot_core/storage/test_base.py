# SPDX-License-Identifier: Apache-2.0
"""What every storage has in common: claiming a name, publishing under it, discarding."""

import logging

import pytest

from snapshot_core import errors
from tests.unit.memory_storage import MemoryStorage


def test_claiming_reserves_the_part_name() -> None:
    storage = MemoryStorage()
    storage.claim("image")
    assert storage.objects == {"image.part": b""}


@pytest.mark.parametrize("taken", ["image", "image.part"])
def test_a_name_that_is_taken_cannot_be_claimed(taken: str) -> None:
    storage = MemoryStorage({taken: b"older"})
    with pytest.raises(errors.InvalidRequest, match="memory:%s exists" % taken):
        storage.claim("image")
    assert storage.objects == {taken: b"older"}


def test_a_confirmed_image_gets_its_final_name() -> None:
    storage = MemoryStorage({"image.part": b"data"})
    storage.publish("image", 4)
    assert storage.objects == {"image": b"data"}


@pytest.mark.parametrize(
    ("objects", "found"),
    [({"image.part": b"dat"}, "holds 3 bytes, expected 4 bytes"),
     ({"image.part": b"data!"}, "holds 5 bytes, expected 4 bytes"),
     ({}, "holds nothing, expected 4 bytes")],
)  # fmt: skip
def test_an_image_of_another_size_does_not_get_its_name(
    objects: dict[str, bytes], found: str
) -> None:
    storage = MemoryStorage(dict(objects))
    with pytest.raises(errors.StorageMismatch, match="memory:image.part " + found):
        storage.publish("image", 4)
    assert storage.objects == objects


def test_an_image_that_suffered_from_its_renaming_is_removed() -> None:
    class Lossy(MemoryStorage):
        def rename(self, name: str, new_name: str) -> None:
            super().rename(name, new_name)
            self.objects[new_name] = self.objects[new_name][:-1]

    storage = Lossy({"image.part": b"data"})
    with pytest.raises(errors.StorageMismatch, match="memory:image holds 3 bytes"):
        storage.publish("image", 4)
    assert storage.objects == {}


def test_discarding_goes_on_after_a_failure_and_logs_what_may_remain(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stubborn(MemoryStorage):
        def remove(self, name: str) -> None:
            if name == "first":
                raise errors.StorageUnavailable("the server is away")
            super().remove(name)

    storage = Stubborn({"first": b"", "second": b""})
    with caplog.at_level(logging.ERROR):
        storage.discard("first", "second", "third")
    assert storage.objects == {"first": b""}
    assert caplog.messages == ["memory:first may be left behind: the server is away"]


def test_a_manifest_gets_its_name_when_it_is_whole() -> None:
    storage = MemoryStorage({"image": b"data"})
    storage.write_manifest("image", b"{}")
    assert storage.objects == {"image": b"data", "image.json": b"{}"}


def test_an_image_that_is_given_up_leaves_nothing_but_what_is_others() -> None:
    storage = MemoryStorage({"image": b"older", "image.part": b"data"})
    storage.abandon("image")
    assert storage.objects == {"image": b"older"}


class Unmoving(MemoryStorage):
    """Cannot rename: images get their final names at once."""

    def part(self, name: str) -> str:
        return name

    def rename(self, name: str, new_name: str) -> None:
        raise AssertionError("it cannot rename")


def test_without_renaming_the_claim_stays_until_the_image_is_confirmed() -> None:
    storage = Unmoving()
    storage.claim("image")
    storage.write(storage.part("image"), [b"data"], 4)
    with pytest.raises(errors.StorageMismatch):
        storage.publish("image", 5)
    assert storage.objects == {"image.part": b"", "image": b"data"}
    storage.publish("image", 4)
    storage.write_manifest("image", b"{}")
    assert storage.objects == {"image": b"data", "image.json": b"{}"}


def test_without_renaming_an_image_that_is_given_up_leaves_nothing() -> None:
    storage = Unmoving()
    storage.claim("image")
    storage.write(storage.part("image"), [b"data"], 4)
    storage.abandon("image")
    assert storage.objects == {}


def test_without_renaming_the_claim_stays_as_long_as_the_image_cannot_be_removed() -> None:
    class Stubborn(Unmoving):
        refused = ("image", "image.part")

        def remove(self, name: str) -> None:
            if name in self.refused:
                raise errors.StorageUnavailable("the server is away")
            super().remove(name)

    storage = Stubborn({"image": b"da", "image.part": b""})
    storage.abandon("image")
    storage.refused = ("image",)
    storage.abandon("image")
    assert storage.objects == {"image": b"da", "image.part": b""}
    storage.refused = ()
    storage.abandon("image")
    assert storage.objects == {}
