# SPDX-License-Identifier: Apache-2.0
"""What a node remembers of a snapshot comes back as it was, and says what may be left of it."""

import json
from typing import Any

import pytest

from conductor_client import errors
from conductor_client.agent import Captured
from conductor_client.delivery import CaptureOptions
from conductor_client.ironic.record import Book, Leftover, Phase, Record, UnreadableRecord
from snapshot_core.encryption import PublicKey
from tests.unit.conductor_client.fake_agent import result_about

NOW = 1_790_000_000
IMAGE = "8e0d5c5e-6b1f-4c39-9f3f-0f5a9d1c7b11"
TENANT = ("instance", None, "lessee", None)
NEW = Record.new(IMAGE, CaptureOptions(writer="dd", expected_serial="S"), NOW, TENANT)
KEY = PublicKey(bytes(range(32)))
CAPTURED = Captured.parse(
    result_about(
        "image", b"data", lost={"bytes": 512, "extents": [[0, 512]]}, partitions=["much"],
        encryption={**KEY.to_wire(), "more": "much"},
    )
)  # fmt: skip

RAW = (Book(NEW).to_wire() or {})["record"]


def through_json(book: Book) -> Book:
    return Book.parse(json.loads(json.dumps(book.to_wire())))


def test_a_book_comes_back_from_json_as_it_was() -> None:
    book = Book(NEW.turned(Phase.CAPTURING, NOW, command_id="id"), (Leftover("older.qcow2", 5),))
    assert through_json(book) == book


def test_of_the_agent_s_result_what_the_delivery_needs_comes_back() -> None:
    book = through_json(Book(NEW.turned(Phase.UPLOADING, NOW, captured=CAPTURED)))
    assert book.record is not None
    found = book.record.captured
    assert found is not None
    assert (found.size, found.sha512, found.lost) == (4, CAPTURED.sha512, 512)
    assert (found.disk_format, found.virtual_size) == ("qcow2", 1024)
    assert found.encrypted_for == KEY
    assert "much" not in json.dumps(book.to_wire())


@pytest.mark.parametrize("raw", [None, {}])
def test_a_node_that_remembers_nothing_has_an_empty_book(raw: object) -> None:
    assert Book.parse(raw) == Book()


def test_an_empty_book_is_nothing_to_remember() -> None:
    assert Book().to_wire() is None


def test_each_snapshot_has_a_name_of_its_own_that_tells_its_format() -> None:
    raw = Record.new(IMAGE, CaptureOptions(image_format="raw"), NOW)
    assert NEW.image_name == NEW.generation + ".qcow2"
    assert raw.image_name == raw.generation + ".raw"
    assert raw.generation != NEW.generation


@pytest.mark.parametrize("asked", ["x/../..", "../../other", "", "vmdk", ["raw"], None])
def test_what_is_asked_for_as_the_format_gets_into_no_name(asked: Any) -> None:
    record = Record.new(IMAGE, CaptureOptions(image_format=asked), NOW)
    assert record.image_name == record.generation + ".qcow2"
    assert record.retired().image_name == record.image_name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image_format", "x/../.."), ("image_format", None), ("compression", "lzma"),
        ("bad_sectors", ["zero"]), ("writer", {"a": 1}), ("expected_serial", 5),
        ("expected_wwn", ["x"]),
    ],
)  # fmt: skip
def test_options_that_there_are_not_are_refused(option: str, value: Any) -> None:
    record = Record.new(IMAGE, CaptureOptions(**{option: value}), NOW)
    with pytest.raises(errors.InvalidRequest, match="the argument %s is" % option):
        record.check_options()


def test_options_that_there_are_are_taken() -> None:
    options = CaptureOptions("dd", "raw", "zstd", "S", "W", bad_sectors="zero")
    Record.new(IMAGE, options, NOW).check_options()
    Record.new(IMAGE, CaptureOptions(), NOW).check_options()


@pytest.mark.parametrize("name", ["../other", "a/b", "..", ""])
def test_a_leftover_is_a_plain_file(name: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="image name"):
        Leftover(name, 0)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.CAPTURING])
def test_an_agent_that_may_be_at_work_is_given_time_to_stop(phase: Phase) -> None:
    book = Book(NEW.turned(phase, NOW)).retired()
    assert book == Book(None, (Leftover(NEW.image_name, None),))


@pytest.mark.parametrize(
    "phase", [Phase.REQUESTED, Phase.UPLOADING, Phase.DONE, Phase.KEPT, Phase.FAILED]
)
def test_what_no_agent_writes_can_go_at_once(phase: Phase) -> None:
    book = Book(NEW.turned(phase, NOW), (Leftover("older.qcow2", 5),)).retired()
    assert book == Book(None, (Leftover("older.qcow2", 5), Leftover(NEW.image_name, 0)))


def test_a_book_after_a_clean_up_has_what_is_left_in_its_order() -> None:
    a, b, c = (Leftover(name, None) for name in "abc")
    asked = Leftover("a", 5)
    assert Book(NEW, (a, b, c)).cleaned({b: None, a: asked}) == Book(NEW, (asked, c))
    assert Book(None, (a,)).cleaned({a: None}) == Book()


def test_an_image_is_kept_for_as_long_as_was_asked_for() -> None:
    kept = NEW.turned(Phase.UPLOADING, NOW).kept(NOW)
    assert kept.phase == Phase.KEPT
    assert kept.kept_for_s(NOW + 59, 60) == 1
    assert kept.kept_for_s(NOW + 60, 60) == 0
    assert kept.kept_for_s(NOW, 0) == 0
    assert NEW.turned(Phase.UPLOADING, NOW).kept_for_s(NOW, 60) == 0


def test_another_upload_keeps_the_image_no_longer_and_no_shorter() -> None:
    again = NEW.kept(NOW).turned(Phase.UPLOADING, NOW + 30)
    assert again.kept_for_s(NOW + 40, 60) == 20
    assert again.kept(NOW + 40).kept_for_s(NOW + 40, 60) == 20
    assert again.turned(Phase.DONE, NOW + 40).kept_for_s(NOW + 40, 60) == 0


@pytest.mark.parametrize(
    "raw",
    [
        "text", ["list"], {"leftovers": []}, {"record": None},
        {"record": {"a": 1}, "leftovers": []},
        {"record": None, "leftovers": [{"image_name": "../..", "agent_until": 0}]},
        {"record": None, "leftovers": [{"image_name": "a", "agent_until": 0, "more": 1}]},
        {"record": {**RAW, "phase": "a later one"}, "leftovers": []},
        {"record": {**RAW, "generation": "../.."}, "leftovers": []},
        {"record": {**RAW, "options": {"more": 1}}, "leftovers": []},
        {"record": {**RAW, "more": 1}, "leftovers": []},
    ],
)  # fmt: skip
def test_what_another_version_wrote_is_told_to_be_unreadable(raw: object) -> None:
    with pytest.raises(UnreadableRecord, match="is of another version"):
        Book.parse(raw)
