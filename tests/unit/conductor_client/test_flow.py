# SPDX-License-Identifier: Apache-2.0
"""A snapshot from the conductor's side with an agent that plays its part, well or badly."""

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import conductor_client
from conductor_client import errors, flow
from conductor_client.flow import CaptureOptions, take_snapshot
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.encryption import PrivateKey, PublicKey, encrypted
from snapshot_core.progress import Progress
from tests.lab import certificates, disks
from tests.unit.conductor_client.fake_agent import (
    TOKEN,
    FakeAgent,
    as_json,
    failed,
    result_about,
    running,
    succeeded,
)
from tests.unit.http_server import Answer, AnsweringServer, Request, Respond

KEY = PrivateKey(X25519PrivateKey.generate())
DATA = b"an image, as far as the conductor cares"
Serve = Callable[[Respond], AnsweringServer]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_POLL_S", 0.01)
    monkeypatch.setattr(flow, "_AGENT_PATIENCE_S", 0.3)
    monkeypatch.setattr(flow, "_STOP_PATIENCE_S", 0.2)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


class Machine(FakeAgent):
    """An agent that stores ``data`` at once, and then answers ``answers`` to the polls."""

    def __init__(self, directory: Path, *answers: object, data: bytes = DATA, **result: Any):
        super().__init__(*answers, on_start=self._capture)
        self._directory, self._data, self._result = directory, data, result

    def _capture(self, params: dict[str, Any]) -> None:
        name = params["image_name"]
        (self._directory / name).write_bytes(self._data)
        self.answers = self.answers or [
            running(), succeeded({**result_about(name, self._data), **self._result}),
        ]  # fmt: skip


@pytest.fixture
def take(serve: Serve, storage: Path, images: Path) -> Callable[..., conductor_client.Snapshot]:
    def take(agent: Respond, **options: Any) -> conductor_client.Snapshot:
        return take_snapshot(
            **{
                "agent_url": serve(agent).url,
                "agent_token": TOKEN,
                "storage_url": "file://%s" % storage,
                "image_ref": "file://%s/new.qcow2" % images,
                **options,
            }
        )

    return take


Take = Callable[..., conductor_client.Snapshot]


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_snapshot_arrives_and_the_intermediate_image_is_gone(
    take: Take, storage: Path, images: Path
) -> None:
    snapshot = take(Machine(storage))
    assert _content(images) == {"new.qcow2": DATA}
    assert _content(storage) == {}
    wire = snapshot.to_wire()
    assert wire.pop("elapsed_s") >= 0
    captured = wire.pop("captured")
    assert captured["size"] == len(DATA)
    assert wire == {
        "image_ref": "file://%s/new.qcow2" % images,
        "disk_format": "qcow2",
        "size": len(DATA),
        "virtual_size": 1024,
        "checksum": {"algorithm": "sha512", "value": hashlib.sha512(DATA).hexdigest()},
        "warnings": [],
    }


def test_the_package_offers_the_function() -> None:
    assert conductor_client.take_snapshot is take_snapshot


def test_the_agent_is_asked_for_what_was_wanted(take: Take, storage: Path, tmp_path: Path) -> None:
    machine, cacert = Machine(storage), certificates.issue(tmp_path).cacert
    take(
        machine,
        image_name="image",
        credentials=Credentials("anna", "s3cret"),
        trust=Trust(str(cacert)),
        options=CaptureOptions(
            "dd", "qcow2", "zlib", "SN", "0x5", any_root=True, bad_sectors="zero"
        ),
    )
    assert machine.started == [{
        "url": "file://%s" % storage, "image_name": "image", "writer": "dd",
        "image_format": "qcow2", "compression": "zlib", "expected_serial": "SN",
        "expected_wwn": "0x5", "any_root": True, "bad_sectors": "zero",
        "auth": {"username": "anna", "password": "s3cret"},
        "cacert": cacert.read_text(),
    }]  # fmt: skip


def test_by_default_the_agent_chooses_and_the_name_cannot_be_guessed(
    take: Take, storage: Path, images: Path
) -> None:
    names = []
    for number in range(2):
        machine = Machine(storage)
        take(machine, image_ref="file://%s/%d" % (images, number), trust=Trust(insecure=True))
        (params,) = machine.started
        names.append(params.pop("image_name"))
        assert params == {
            "url": "file://%s" % storage, "writer": "auto", "image_format": "qcow2",
            "compression": "auto", "any_root": False, "bad_sectors": "fail", "insecure": True,
        }  # fmt: skip
    assert names[0] != names[1]
    assert all(re.fullmatch(r"[0-9a-f-]{36}-snapshot\.qcow2", name) for name in names)


def test_progress_is_told_from_the_agent_and_from_here(take: Take, storage: Path) -> None:
    told: list[Progress] = []
    take(Machine(storage), on_progress=told.append)
    assert Progress("stream", 10, 5, 3) in told
    assert [one.phase for one in told if one.phase == "upload"]


def test_an_agent_that_is_silent_for_a_moment_is_waited_for(
    take: Take, storage: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "_AGENT_PATIENCE_S", 60)
    done = succeeded(result_about("image", DATA))
    machine = Machine(storage, running(), Answer(None), Answer(500), running(), done)
    take(machine, image_name="image")
    assert _content(images) == {"new.qcow2": DATA}


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_a_raw_image_is_converted_if_another_format_was_wanted(
    take: Take, storage: Path, images: Path, tmp_path: Path, image_format: str
) -> None:
    data = os.urandom(1024 * 1024) + bytes(1024 * 1024)
    (tmp_path / "raw").write_bytes(data)
    machine = Machine(storage, data=data, disk_format="raw", virtual_size=len(data))
    snapshot = take(machine, options=CaptureOptions(image_format=image_format))
    image = images / "new.qcow2"
    assert (snapshot.disk_format, snapshot.size) == (image_format, image.stat().st_size)
    assert snapshot.sha512 == hashlib.sha512(image.read_bytes()).hexdigest()
    disks.run("qemu-img", "compare", "-f", "raw", "-F", image_format, tmp_path / "raw", image)
    assert _content(storage) == {}


# Failures: the intermediate image is gone, and the place still waits


def test_an_image_is_encrypted_in_the_storage_for_the_holder_of_a_key(
    take: Take, storage: Path, images: Path
) -> None:
    encryption = {"method": "x25519-aes256gcm", "public_key": str(KEY.public)}
    sealed = b"".join(encrypted([DATA], KEY.public))
    machine = Machine(
        storage, data=sealed, size=len(DATA), encryption=encryption,
        checksum={"algorithm": "sha512", "value": hashlib.sha512(DATA).hexdigest()},
    )  # fmt: skip
    take(machine, encryption_key=KEY)
    assert machine.started[0]["encrypt_for"] == str(KEY.public)
    assert _content(images) == {"new.qcow2": DATA}
    assert _content(storage) == {}


OTHER = PublicKey(bytes(range(32)))


@pytest.mark.parametrize("public", [None, OTHER])
def test_an_image_that_is_not_encrypted_as_it_was_asked_for_does_not_arrive(
    take: Take, storage: Path, images: Path, public: PublicKey | None
) -> None:
    encryption = {"method": "x25519-aes256gcm", "public_key": str(public)} if public else None
    with pytest.raises(errors.CommandFailed, match="not encrypted as it was asked for"):
        take(Machine(storage, encryption=encryption), encryption_key=KEY)
    assert _content(images) == {}
    assert _content(storage) == {}


def _leave(storage: Path, *names: str) -> Callable[[], Any]:
    def leave() -> Any:
        for name in names:
            (storage / name).write_bytes(b"left")
        return failed({"type": "WriteFailed", "details": "the storage is full"})

    return leave


@pytest.mark.parametrize("left", [(), ("image",), ("image.part",), ("image", "image.part")])
def test_when_the_agent_fails_the_intermediate_image_is_gone(
    take: Take, storage: Path, images: Path, left: tuple[str, ...]
) -> None:
    agent = FakeAgent(running(), _leave(storage, *left))
    with pytest.raises(errors.CommandFailed, match="WriteFailed: the storage is full"):
        take(agent, image_name="image")
    assert (_content(storage), _content(images)) == ({}, {})


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"image_name": "other"}, "an unusable result: it is about another image"),
        ({"size": 0}, "an unusable result"),
        ({"disk_format": "raw", "checksum": None}, "an unusable result"),
    ],
)
def test_an_unusable_result_fails_it(
    take: Take, storage: Path, images: Path, result: dict[str, Any], error: str
) -> None:
    with pytest.raises(errors.CommandFailed, match=error):
        take(Machine(storage, **result))
    assert (_content(storage), _content(images)) == ({}, {})


def test_a_qcow2_where_a_raw_image_was_wanted_is_unusable(
    take: Take, storage: Path, images: Path
) -> None:
    with pytest.raises(errors.CommandFailed, match="the image is qcow2"):
        take(Machine(storage), options=CaptureOptions(image_format="raw"))
    assert (_content(storage), _content(images)) == ({}, {})


@pytest.mark.parametrize(
    "result",
    [{"size": len(DATA) + 1}, {"size": len(DATA) - 1},
     {"checksum": {"algorithm": "sha512", "value": "0" * 128}}],
)  # fmt: skip
def test_an_image_that_the_storage_holds_differently_does_not_arrive(
    take: Take, storage: Path, images: Path, result: dict[str, Any]
) -> None:
    with pytest.raises(errors.StorageMismatch):
        take(Machine(storage, **result))
    assert (_content(storage), _content(images)) == ({}, {})


class Obedient(Machine):
    """Runs for ever, but stops when it is asked to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, self._look)
        self.stopped = False

    def _look(self) -> Any:
        if not (self._directory / "image.stop").exists():
            return running()
        self.stopped = True
        return failed({"type": "Cancelled", "details": "image is not wanted any more"})


def _interrupt(progress: Progress) -> None:
    raise KeyboardInterrupt


ENDS = pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"timeout_s": 0.2}, errors.AgentUnavailable, "not done within 0 s"),
        ({"on_progress": _interrupt}, KeyboardInterrupt, None),
    ],
    ids=["time is over", "interrupt"],
)


@ENDS
def test_an_agent_that_is_not_wanted_any_more_is_stopped_and_nothing_is_left(
    take: Take, storage: Path, images: Path, caplog: pytest.LogCaptureFixture,
    options: dict[str, Any], error: type[BaseException], message: str | None,
) -> None:  # fmt: skip
    agent = Obedient(storage)
    with pytest.raises(error, match=message) as caught:
        take(agent, image_name="image", credentials=Credentials("anna", "s3cret"), **options)
    assert agent.stopped
    assert (_content(storage), _content(images)) == ({}, {})
    assert "may go on" not in caplog.text
    assert not [record for record in caplog.records if "s3cret" in str(vars(record))]
    assert getattr(caught.value, "word", "AgentUnavailable") == "AgentUnavailable"


@ENDS
@pytest.mark.parametrize("answer", [running(), Answer(None), Answer(500)])
def test_of_an_agent_that_does_not_stop_it_is_said_that_it_may_go_on(
    take: Take, storage: Path, images: Path, caplog: pytest.LogCaptureFixture, answer: object,
    options: dict[str, Any], error: type[BaseException], message: str | None,
) -> None:  # fmt: skip
    def fail_once_it_is_to_stop() -> Any:
        return answer if (storage / "image.stop").exists() else running()

    machine = Machine(storage, fail_once_it_is_to_stop)
    with pytest.raises(error, match=message):
        take(machine, image_name="image", credentials=Credentials("anna", "s3cret"), **options)
    assert (_content(storage), _content(images)) == ({}, {})
    assert "may go on: power the machine off, or wait and then remove image" in caplog.text
    assert not [record for record in caplog.records if "s3cret" in str(vars(record))]


class CutOff(Obedient):
    """Writes until it is asked to stop, while none of its answers arrive: only the way is cut."""

    def __init__(self, directory: Path, *, at_the_start: bool) -> None:
        super().__init__(directory)
        self.at_the_start = at_the_start
        self.answers = [self._look_and_say_nothing]

    def __call__(self, request: Request) -> Answer:
        idle = super().__call__(request)
        if request.method == "POST" and self.started and not self.stopped:
            self._look()
            return Answer(None) if self.at_the_start else as_json(running())
        return idle

    def _look_and_say_nothing(self) -> Any:
        self._look()
        return Answer(None)


@pytest.mark.parametrize("at_the_start", [True, False])
def test_an_agent_that_may_write_on_unheard_is_stopped_through_the_storage(
    take: Take, storage: Path, images: Path, at_the_start: bool, caplog: pytest.LogCaptureFixture
) -> None:
    agent = CutOff(storage, at_the_start=at_the_start)
    with pytest.raises(errors.AgentUnavailable, match="does not answer"):
        take(agent, image_name="image")
    assert agent.stopped
    assert (_content(storage), _content(images)) == ({}, {})


def test_an_agent_that_a_proxy_speaks_for_is_stopped(
    take: Take, storage: Path, images: Path
) -> None:
    class Behind(Obedient):
        """Answers by a page of a proxy's, until it has stopped."""

        def __call__(self, request: Request) -> Answer:
            answer = super().__call__(request)
            is_poll = request.method == "GET" and not self.stopped
            return Answer(200, b"<html>") if is_poll else answer

    agent = Behind(storage)
    with pytest.raises(errors.AgentUnavailable, match="does not answer as an agent"):
        take(agent, image_name="image")
    assert agent.stopped
    assert (_content(storage), _content(images)) == ({}, {})


def test_an_interrupt_of_the_start_stops_the_agent(take: Take, storage: Path, images: Path) -> None:
    agent = CutOff(storage, at_the_start=True)
    capture = agent.on_start

    def interrupt(params: dict[str, Any]) -> None:
        assert capture is not None
        capture(params)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    agent.on_start = interrupt
    with pytest.raises(KeyboardInterrupt):
        take(agent, image_name="image")
    assert agent.stopped
    assert (_content(storage), _content(images)) == ({}, {})


def test_the_time_for_a_stop_ends_though_the_patience_with_a_silent_agent_does_not(
    take: Take, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "_AGENT_PATIENCE_S", 60)
    silent: list[float] = []

    def say_nothing_once_it_is_to_stop() -> Any:
        if not (storage / "image.stop").exists():
            return running()
        silent.append(time.monotonic())
        return Answer(None)

    with pytest.raises(errors.AgentUnavailable, match="not done within 0 s"):
        take(Machine(storage, say_nothing_once_it_is_to_stop), image_name="image", timeout_s=0.2)
    assert time.monotonic() - silent[0] < 20


@pytest.mark.parametrize("refusal", ["at the start", "by the command"])
def test_what_another_snapshot_of_the_same_name_stores_is_not_removed(
    take: Take, storage: Path, images: Path, refusal: str
) -> None:
    theirs = {"image": b"theirs", "image.part": b"theirs", "image.json": b"theirs"}
    fault = "image.part exists: it is being written now"

    def refuse(params: dict[str, Any]) -> Answer | None:
        for name, content in theirs.items():
            (storage / name).write_bytes(content)
        if refusal == "at the start":
            return as_json({"faultstring": "InvalidRequest: " + fault}, 400)
        return None

    agent = FakeAgent(failed({"type": "InvalidRequest", "details": fault}), on_start=refuse)
    with pytest.raises(errors.SnapshotError, match=fault):
        take(agent, image_name="image")
    assert (_content(storage), _content(images)) == (theirs, {})


def test_an_agent_that_went_away_is_given_up(take: Take, storage: Path, images: Path) -> None:
    with pytest.raises(errors.AgentUnavailable, match="does not answer"):
        take(Machine(storage, running(), Answer(None)))
    assert (_content(storage), _content(images)) == ({}, {})


def test_a_place_that_was_taken_meanwhile_is_not_overwritten(
    take: Take, storage: Path, images: Path
) -> None:
    def take_the_place(params: dict[str, Any]) -> None:
        (images / "new.qcow2").write_bytes(b"other")

    machine = Machine(storage)
    capture = machine.on_start
    machine.on_start = lambda params: (take_the_place(params), capture(params))[1]  # type: ignore
    with pytest.raises(errors.InvalidRequest, match="exists"):
        take(machine)
    assert (_content(storage), _content(images)) == ({}, {"new.qcow2": b"other"})


def test_an_image_that_cannot_be_removed_is_a_warning(
    take: Take, images: Path, mount_tmpfs: Callable[..., Path]
) -> None:
    storage = mount_tmpfs("size=1m")

    def freeze() -> Any:
        disks.run("mount", "-o", "remount,ro", storage)
        return succeeded(result_about("image", DATA))

    snapshot = take(
        Machine(storage, running(), freeze), storage_url="file://%s" % storage, image_name="image"
    )
    assert _content(images) == {"new.qcow2": DATA}
    (warning,) = snapshot.to_wire()["warnings"]
    assert warning.startswith("the intermediate image is left behind: file://%s/image" % storage)


# Refusals, before anything is started


@pytest.mark.parametrize("taken", ["image", "image.part"])
def test_an_intermediate_name_that_exists_is_refused_and_stays(
    take: Take, storage: Path, taken: str
) -> None:
    (storage / taken).write_bytes(b"older")
    machine = Machine(storage)
    with pytest.raises(errors.InvalidRequest, match="%s exists" % taken):
        take(machine, image_name="image")
    assert machine.started == []
    assert _content(storage) == {taken: b"older"}


def test_a_target_that_exists_is_refused_and_stays(take: Take, storage: Path, images: Path) -> None:
    (images / "new.qcow2").write_bytes(b"older")
    machine = Machine(storage)
    with pytest.raises(errors.InvalidRequest, match="exists"):
        take(machine)
    assert machine.started == []
    assert _content(images) == {"new.qcow2": b"older"}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"storage_url": "ftp://host/"}, errors.InvalidRequest),
        ({"storage_url": "file:///no/such/directory"}, errors.StorageUnavailable),
        ({"storage_url": "http://anna:s3cret@host/"}, errors.InvalidRequest),
        ({"image_name": "../image"}, errors.InvalidRequest),
        ({"image_ref": "image"}, errors.InvalidRequest),
        ({"image_ref": "file:///no/such/directory/new"}, errors.StorageUnavailable),
        ({"agent_url": "host:9999"}, errors.InvalidRequest),
        ({"agent_token": "wrong"}, errors.AgentUnavailable),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_started(
    take: Take, storage: Path, images: Path, bad: dict[str, Any],
    error: type[errors.SnapshotError],
) -> None:  # fmt: skip
    machine = Machine(storage)
    with pytest.raises(error) as caught:
        take(machine, **bad)
    assert machine.started == []
    assert "s3cret" not in str(caught.value)
    assert (_content(storage), _content(images)) == ({}, {})


def test_an_agent_without_our_extension_never_sees_the_credentials(
    take: Take, serve: Serve, storage: Path
) -> None:
    server = serve(lambda request: as_json({"faultstring": "no such extension"}, 404))
    with pytest.raises(errors.AgentUnavailable, match="built without ipa-snapshot"):
        take(Machine(storage), agent_url=server.url, credentials=Credentials("anna", "s3cret"))
    assert server.requests
    assert not [request for request in server.requests if b"s3cret" in request.body]


def test_a_command_that_is_refused_leaves_nothing(take: Take, storage: Path, images: Path) -> None:
    refusal = as_json({"faultstring": "InvalidRequest: unknown writer 'x'"}, 400)
    with pytest.raises(errors.InvalidRequest, match="the agent refuses: unknown writer 'x'"):
        take(FakeAgent(on_start=lambda params: refusal))
    assert (_content(storage), _content(images)) == ({}, {})
