# SPDX-License-Identifier: Apache-2.0
"""What is old and ours is removed from the storage, and nothing else."""

import gzip
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from conductor_client import cli, collection, errors
from conductor_client.access import StorageAccess
from conductor_client.reap import reap
from tests.unit.conductor_client.fake_agent import result_about
from tests.unit.http_server import Answer, AnsweringServer, Request, Respond

pytestmark = pytest.mark.usefixtures("logging_restored")
NODE = "6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59"
DAY_S = 24 * 3600
MANIFEST = json.dumps(result_about("image", b"data"))
PROGRESS = '{"progress": {"phase": "stream"}}'


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    (path / NODE).mkdir(parents=True)
    return path


def put(path: Path, content: str = "", days: float = 10) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    age(path, days)
    age(path.parent, days)


def age(path: Path, days: float) -> None:
    when = time.time() - days * DAY_S
    os.utime(path, (when, when))


def content(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def run(storage: Path, days: float = 7, *, dry_run: bool = False) -> list[str]:
    return reap(StorageAccess.of("file://%s" % storage), days * DAY_S, dry_run=dry_run)


def test_images_that_nobody_fetched_go_with_all_that_is_theirs(storage: Path) -> None:
    for name, text in (("a", "image"), ("a.json", MANIFEST), ("b.part", "half"),
                       ("b.json", PROGRESS), ("b.stop", "")):  # fmt: skip
        put(storage / NODE / name, text)
    put(storage / "c.json", MANIFEST)
    assert run(storage) == ["c", NODE + "/a", NODE + "/b"]
    assert list(storage.iterdir()) == []


def test_an_empty_collection_goes_only_once_it_is_old(storage: Path) -> None:
    age(storage / NODE, 6)  # a snapshot may wait for its turn
    assert run(storage) == []
    assert os.listdir(storage) == [NODE]
    age(storage / NODE, 8)
    assert run(storage, dry_run=True) == []
    assert os.listdir(storage) == [NODE]
    assert run(storage) == []
    assert os.listdir(storage) == []


def test_the_rest_of_a_claim_that_a_power_cut_ended_goes(storage: Path) -> None:
    probe = "ipa-snapshot-" + "0" * 32
    put(storage / NODE / probe)
    put(storage / NODE / "ipa-snapshot-notes")
    assert run(storage) == ["%s/%s" % (NODE, probe)]
    assert content(storage) == {NODE + "/ipa-snapshot-notes"}


GENERATED = ["%032x.qcow2" % 7, "%032x.raw" % 8, NODE + "-snapshot.qcow2", NODE + "-snapshot.raw"]


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("suffix", ["", ".part"])
@pytest.mark.parametrize("collection", [NODE, "."])
def test_an_image_goes_whose_manifest_a_power_cut_prevented(
    storage: Path, collection: str, name: str, suffix: str
) -> None:
    put(storage / collection / (name + suffix), "image")
    assert run(storage, days=11) == []
    assert run(storage) == [str(Path(collection, name))]
    assert content(storage) == set()


@pytest.mark.parametrize(
    ("keep_s", "goes"),
    [(DAY_S, True), (3 * DAY_S, False), (None, False), ("1", False), (True, False)],
)
def test_what_has_expired_goes_before_its_age_does(
    storage: Path, keep_s: object, goes: bool
) -> None:
    manifest = json.dumps({**json.loads(MANIFEST), "keep_s": keep_s})
    put(storage / NODE / "a", "image", days=2)
    put(storage / NODE / "a.json", manifest, days=2)
    assert run(storage) == ([NODE + "/a"] if goes else [])
    assert bool(content(storage)) is not goes


def test_what_is_young_stays_with_all_that_is_its(storage: Path) -> None:
    put(storage / NODE / "a", "image", days=10)
    put(storage / NODE / "a.json", MANIFEST, days=6)
    put(storage / NODE / "b.part", "half", days=10)
    put(storage / NODE / "b.json", PROGRESS, days=0)
    before = content(storage)
    assert run(storage) == []
    assert content(storage) == before


def test_what_is_not_ours_stays(storage: Path) -> None:
    put(storage / "report.json", '{"a": 1}')
    put(storage / "list.json", "[1]")
    put(storage / "broken.json", "{")
    put(storage / "unknown.part", "x")
    put(storage / "plain", "x")
    put(storage / NODE / "disk.qcow2", "x")
    put(storage / NODE / "disk.part", "x")
    put(storage / NODE / (GENERATED[0] + ".old"), "x")
    put(storage / "expired.json", '{"keep_s": 1}')
    put(storage / "elsewhere" / "a.json", MANIFEST)
    before = content(storage)
    assert run(storage) == []
    assert content(storage) == before


def test_a_link_to_elsewhere_is_not_followed(storage: Path, tmp_path: Path) -> None:
    put(tmp_path / "outside" / "a.json", MANIFEST)
    (storage / "7f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59").symlink_to(tmp_path / "outside")
    assert run(storage) == []
    assert content(tmp_path / "outside") == {"a.json"}


def test_a_dry_run_only_tells(storage: Path) -> None:
    put(storage / NODE / "a.json", MANIFEST)
    assert run(storage, dry_run=True) == [NODE + "/a"]
    assert content(storage) == {NODE + "/a.json"}


def test_the_command_takes_ages_as_people_say_them(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(storage / NODE / "a.json", MANIFEST, days=1)
    command = ["reap", "--storage-url", "file://%s" % storage, "--older-than"]
    assert cli.main([*command, "2d"]) == 0
    assert cli.main([*command, "23h", "--json"]) == 0
    assert capsys.readouterr().out == '\n{"removed": ["%s/a"]}\n' % NODE
    for age in ("7", "-1d", "0d", "1w", "soon"):
        with pytest.raises(SystemExit):
            cli.main([*command, age])


# WebDAV: what servers answer


def listing(*entries: str) -> bytes:
    return b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">%s</D:multistatus>' % (
        "".join(entries).encode()
    )


def entry(href: str, changed: str | None, *, is_collection: bool = False) -> str:
    kind = "<D:collection/>" if is_collection else ""
    date = "<D:getlastmodified>%s</D:getlastmodified>" % changed if changed else ""
    return (
        "<D:response><D:href>%s</D:href><D:propstat><D:prop>%s<D:resourcetype>%s"
        "</D:resourcetype></D:prop></D:propstat></D:response>" % (href, date, kind)
    )


NOW, BEFORE = "Fri, 02 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 GMT"


@pytest.fixture
def members(
    serve: Callable[[Respond], AnsweringServer],
) -> Callable[[Answer], list[collection.Member]]:
    def members(answer: Answer) -> list[collection.Member]:
        access = StorageAccess.of(serve(lambda request: answer).url + "/snapshots")
        with access.opened() as storage:
            return collection.members(access, storage)

    return members


Members = Callable[[Answer], list[collection.Member]]


def test_ages_are_by_the_server_s_own_clock(members: Members) -> None:
    body = listing(
        entry("/snapshots/", NOW, is_collection=True),
        entry("/snapshots/a%20b.json", BEFORE),
        entry("http://host/snapshots/%s/" % NODE, BEFORE, is_collection=True),
        entry("/snapshots/undated", None),
    )
    # the test's own server sends its own date before this one
    found = {one.name: one for one in members(Answer(207, body, {"Date": NOW}))}
    assert found.keys() == {"a b.json", NODE, "undated"}
    assert found["undated"].age_s == 0
    assert found[NODE].is_collection
    assert not found["a b.json"].is_collection
    assert found["a b.json"].age_s > 0


def test_a_collection_that_vanishes_meanwhile_does_not_end_the_reaping(
    serve: Callable[[Respond], AnsweringServer], tmp_path: Path
) -> None:
    gone, there = NODE, NODE.replace("6f", "7f")
    top = listing(*(entry("/%s/" % name, BEFORE, is_collection=True) for name in (gone, there)))
    old = listing(entry("/%s/%s" % (there, GENERATED[0]), BEFORE))

    def respond(request: Request) -> Answer:
        if request.method != "PROPFIND":
            return Answer(204)
        if request.path == "/%s/" % gone:
            return Answer(404)
        return Answer(207, old if request.path == "/%s/" % there else top)

    access = StorageAccess.of(serve(respond).url)
    assert reap(access, 3600) == ["%s/%s" % (there, GENERATED[0])]
    access = StorageAccess.of("file://%s" % tmp_path)
    with access.opened() as storage:
        assert collection.members(access, storage, gone) == []


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 01 Jan %s 00:00:00 GMT" % ("9" * 30)])
def test_what_has_no_time_that_can_be_is_young(members: Members, date: str) -> None:
    (found,) = members(Answer(207, listing(entry("/snapshots/a.json", date))))
    assert found.age_s == 0


@pytest.mark.parametrize(
    "answer",
    [Answer(405), Answer(401), Answer(207, b"<html>"), Answer(207, b""), Answer(200, listing())],
)
def test_a_server_that_does_not_list_says_so(members: Members, answer: Answer) -> None:
    with pytest.raises(errors.StorageUnavailable):
        members(answer)


def test_a_listing_that_breaks_off_says_so(members: Members) -> None:
    with pytest.raises(errors.StorageUnavailable, match="broke off"):
        members(Answer(207, listing()[:-1], length=len(listing())))


def test_a_listing_that_unpacks_to_too_much_is_not_unpacked(members: Members) -> None:
    bomb = Answer(207, gzip.compress(b" " * 128 * 1024 * 1024), {"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(errors.StorageUnavailable, match="does not list as WebDAV does"):
            members(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_entities_that_blow_up_are_refused(members: Members) -> None:
    bomb = b'<!DOCTYPE d [<!ENTITY a0 "%s">' % (b"x" * 10_000)
    for number in range(1, 9):
        bomb += b'<!ENTITY a%d "%s">' % (number, b"&a%d;" % (number - 1) * 10)
    with pytest.raises(errors.StorageUnavailable):
        members(Answer(207, bomb + b"]><d>&a8;</d>"))
