# SPDX-License-Identifier: Apache-2.0
"""A snapshot through an Ironic that plays its part, well or badly; the machine's is played too."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity

from conductor_client import errors, node, plugin, recovery, sdk, service
from conductor_client.access import StorageAccess
from conductor_client.agent import Captured
from conductor_client.ironic.record import KEY, Book, Phase
from conductor_client.ironic.record import Record as SnapshotRecord
from conductor_client.node import Record
from conductor_client.provision import ServiceStep
from snapshot_core.progress import Progress
from tests.unit.conductor_client.fake_agent import result_about
from tests.unit.conductor_client.fake_ironic import (
    PROJECT,
    UUID,
    FakeGlance,
    FakeIronic,
    Moment,
    connect,
    fault,
)
from tests.unit.http_server import Answer, AnsweringServer, Respond

DATA = b"an image, as far as Ironic cares"
WAIT = {"provision_state": "service wait"}
ACTIVE = {"provision_state": "active", "last_error": None}
FAILED = {
    "provision_state": "service failed",
    "last_error": "Service step deploy.snapshot failed on node %s. ReadFailed: sector 1" % UUID,
}

# The conductor takes the step away when it has brought the instance back.
FAILED_BY_PLUGIN = {
    "provision_state": "service failed",
    "service_step": {},
    "last_error": "Service step vendor.snapshot failed on node %s. ReadFailed: sector 1" % UUID,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (service, recovery):
        monkeypatch.setattr(module, "_POLL_S", 0.005)
    monkeypatch.setattr(service, "_LOCK_PATIENCE_S", 0.1)
    monkeypatch.setattr(recovery, "_PATIENCE_S", 5)
    monkeypatch.setattr(node, "_PAUSE", tenacity.wait_fixed(0.01))


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


class Ramdisk:
    """Stores ``data`` in the node's collection when the fake Ironic says so."""

    def __init__(self, storage: Path, data: bytes = DATA, **result: Any) -> None:
        self.ironic = FakeIronic()
        self.collection = storage / UUID
        self._data, self._result = data, result

    @property
    def name(self) -> str:
        name: str = self.ironic.services[-1]["args"]["image_name"]
        return name

    def begin(self) -> None:
        self.collection.mkdir(exist_ok=True)
        (self.collection / (self.name + ".part")).touch()
        self.tell(json.dumps({"progress": Progress("stream", 10, 5, 3).to_wire()}))

    def tell(self, text: str) -> None:
        (self.collection / (self.name + ".json")).write_text(text)

    def end(self) -> None:
        (self.collection / (self.name + ".part")).unlink()
        (self.collection / self.name).write_bytes(self._data)
        self.tell(json.dumps({**result_about(self.name, self._data), **self._result}))


@pytest.fixture
def ramdisk(storage: Path) -> Ramdisk:
    return Ramdisk(storage)


@pytest.fixture
def take(
    serve: Callable[[Respond], AnsweringServer], storage: Path, tmp_path: Path
) -> Callable[..., sdk.NodeSnapshot]:
    def take(
        ironic: FakeIronic, *moments: Moment, glance: FakeGlance | None = None, **options: Any
    ) -> sdk.NodeSnapshot:
        ironic.on_service = list(moments)
        url = serve(glance or FakeGlance()).url + "/v2"
        return sdk.snapshot_node(
            connect(serve(ironic).url, image_endpoint_override=url), "node-1",
            **{
                "image": "file://%s/new.qcow2" % tmp_path,
                "storage": StorageAccess.of("file://%s" % storage),
                **options,
            },
        )  # fmt: skip

    return take


Take = Callable[..., sdk.NodeSnapshot]


def content(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_the_instance_is_shut_down_serviced_and_back_and_the_image_there(
    take: Take, ramdisk: Ramdisk, storage: Path, tmp_path: Path
) -> None:
    told: list[Progress] = []
    result = take(
        ramdisk.ironic, WAIT, ramdisk.begin, ramdisk.end, {}, ACTIVE, on_progress=told.append
    )
    assert ramdisk.ironic.asked == ["soft power off", "service"]
    assert (tmp_path / "new.qcow2").read_bytes() == DATA
    wire = result.to_wire()
    assert (wire["node"], wire["state"], wire["consistency"], wire["warnings"]) == (
        UUID, "active", "clean", [],
    )  # fmt: skip
    assert wire["checksum"]["value"] == hashlib.sha512(DATA).hexdigest()
    assert list(dict.fromkeys(one.phase for one in told)) == [
        "shut down", "boot", "stream", "captured", "upload", "return",
    ]  # fmt: skip
    assert content(storage) == []


def test_the_step_gets_a_name_that_nobody_guesses_and_what_differs_from_its_defaults(
    take: Take, ramdisk: Ramdisk, tmp_path: Path
) -> None:
    options = sdk.CaptureOptions("dd", compression="zlib", expected_serial="SN")
    take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE, options=options)
    (step,) = ramdisk.ironic.services
    assert len(step["args"].pop("image_name")) > 36
    assert step == {
        "interface": "deploy", "step": "snapshot",
        "args": {
            "image_ref": "file://%s/new.qcow2" % tmp_path, "keep_s": 7 * 24 * 3600,
            "writer": "dd", "compression": "zlib", "expected_serial": "SN",
        },
    }  # fmt: skip


def test_what_a_step_does_not_take_is_refused(take: Take, ramdisk: Ramdisk) -> None:
    with pytest.raises(errors.InvalidRequest, match="any_root"):
        take(ramdisk.ironic, options=sdk.CaptureOptions(any_root=True))
    assert ramdisk.ironic.asked == []


@pytest.mark.parametrize("soft", [True, False])
def test_an_instance_that_is_not_shut_down_is_as_after_a_crash(
    take: Take, ramdisk: Ramdisk, soft: bool
) -> None:
    ramdisk.ironic.refusals[("PUT", "states/power")] = [fault("no soft power off")]
    handling = sdk.Handling(shutdown_timeout_s=300 if soft else 0)
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE, handling=handling)
    assert result.consistency == "crash"
    assert ramdisk.ironic.asked == ["service"]


def test_a_node_that_was_off_is_off_again(take: Take, ramdisk: Ramdisk) -> None:
    ramdisk.ironic.node["power_state"] = "power off"
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE)
    assert result.consistency == "clean"
    assert ramdisk.ironic.asked == ["service", "soft power off"]
    assert ramdisk.ironic.node["power_state"] == "power off"


# Refusals, before anything is started


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"reservation": "conductor-1"}, "locked by conductor-1"),
        ({"provision_state": "available"}, "in the state available, expected active"),
        ({"maintenance": True, "maintenance_reason": "a fan"}, r"in maintenance \(a fan\)"),
        ({"provision_state": "service failed"}, "not because of a snapshot"),
        (
            {"provision_state": "service failed", "maintenance": True, "fault": "power failure",
             "driver_internal_info": {"service_steps": [{"step": "snapshot"}]}},
            "in maintenance",
        ),
    ],
)  # fmt: skip
def test_a_node_that_is_not_ready_is_not_touched(
    take: Take, ramdisk: Ramdisk, storage: Path, node: dict[str, Any], message: str
) -> None:
    ramdisk.ironic.node.update(node)
    with pytest.raises(errors.NodeNotReady, match=message):
        take(ramdisk.ironic)
    assert ramdisk.ironic.asked == []
    assert content(storage) == []


def test_a_node_without_power_or_network_is_not_shut_down(take: Take, ramdisk: Ramdisk) -> None:
    ramdisk.ironic.validation["network"] = {"result": False, "reason": "no servicing network"}
    with pytest.raises(errors.NodeNotReady, match="network: no servicing network"):
        take(ramdisk.ironic)
    assert ramdisk.ironic.asked == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"storage": None}, errors.InvalidRequest),
        ({"storage": StorageAccess.of("file:///no/such")}, errors.StorageUnavailable),
        ({"image": "file:///no/such/directory/new"}, errors.StorageUnavailable),
        ({"image": "not a UUID"}, errors.InvalidRequest),
        ({"image_name": "../x"}, errors.InvalidRequest),
        ({"keep_s": 0}, errors.InvalidRequest),
    ],
)
def test_what_cannot_work_is_refused_before_the_node_is_touched(
    take: Take, ramdisk: Ramdisk, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        take(ramdisk.ironic, **options)
    assert ramdisk.ironic.asked == []


def test_a_service_that_is_refused_leaves_the_instance_on(take: Take, ramdisk: Ramdisk) -> None:
    ramdisk.ironic.refusals[("PUT", "states/provision")] = [fault("too many services")]
    with pytest.raises(errors.NodeNotReady, match="too many services"):
        take(ramdisk.ironic)
    assert ramdisk.ironic.asked == ["soft power off", "power on"]


OTHERS = [{"interface": "deploy", "step": "snapshot", "args": {"image_name": "another"}}]


@pytest.mark.parametrize(
    "theirs",
    [{"power_state": "power off"}, {**WAIT, "driver_internal_info": {"service_steps": OTHERS}}],
)
def test_the_snapshot_of_somebody_who_was_quicker_is_left_alone(
    take: Take, ramdisk: Ramdisk, theirs: dict[str, Any]
) -> None:
    def on_progress(progress: Progress) -> None:
        if progress.phase == "boot":
            ramdisk.ironic.node.update(theirs)

    # They are shutting it down, or their service has begun.
    ramdisk.ironic.refusals[("PUT", "states/power")] = [fault("locked", 409)]
    ramdisk.ironic.refusals[("PUT", "states/provision")] = [fault("not now", 409)]
    with pytest.raises(errors.NodeNotReady, match="not now"):
        take(ramdisk.ironic, on_progress=on_progress)
    assert ramdisk.ironic.asked == []


def test_a_service_that_somebody_else_starts_later_is_not_aborted(
    take: Take, ramdisk: Ramdisk
) -> None:
    others = {**WAIT, "driver_internal_info": {"service_steps": OTHERS}}
    with pytest.raises(errors.ServiceFailed, match="not done within"):
        take(ramdisk.ironic, WAIT, others, handling=sdk.Handling(timeout_s=0.1))
    assert ramdisk.ironic.asked == ["soft power off", "service"]


# Failures: the instance is back, and the place still waits


def test_a_step_that_fails_is_told_and_its_rest_removed(
    take: Take, ramdisk: Ramdisk, storage: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.CommandFailed, match="ReadFailed: sector 1"):
        take(ramdisk.ironic, WAIT, ramdisk.begin, FAILED)
    assert ramdisk.ironic.asked == ["soft power off", "service", "abort"]
    assert content(storage) == []
    assert not (tmp_path / "new.qcow2").exists()


def test_a_failed_node_is_left_if_that_is_wanted(take: Take, ramdisk: Ramdisk) -> None:
    with pytest.raises(errors.CommandFailed):
        take(ramdisk.ironic, ramdisk.begin, FAILED, handling=sdk.Handling(leave_failed=True))
    assert ramdisk.ironic.asked == ["soft power off", "service"]


def test_a_failed_snapshot_is_tried_again_after_what_blocks_it_is_gone(
    take: Take, ramdisk: Ramdisk
) -> None:
    ramdisk.ironic.node.update(
        provision_state="service failed", maintenance=True, fault="service failure",
        power_state="power off",
        driver_internal_info={"service_steps": [{"interface": "deploy", "step": "snapshot"}]},
    )  # fmt: skip
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE)
    assert ramdisk.ironic.asked == ["clear maintenance", "service"]
    assert result.consistency == "crash"


@pytest.mark.parametrize(
    ("fields", "asked", "consistency"),
    [
        # Ironic itself gave a ramdisk up that never reported.
        ({}, ["soft power off", "service"], "crash"),
        ({"driver_internal_info": {"agent_start_attempted": True}}, ["service"], "crash"),
        ({"service_step": {"step": "snapshot"}}, ["service"], "crash"),
    ],
)
def test_a_second_try_shuts_down_what_may_be_the_instance(
    take: Take, ramdisk: Ramdisk, fields: dict[str, Any], asked: list[str], consistency: str
) -> None:
    ramdisk.ironic.node.update(provision_state="service failed", **fields)
    info = ramdisk.ironic.node["driver_internal_info"]
    info["service_steps"] = [{"interface": "deploy", "step": "snapshot"}]
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE)
    assert (ramdisk.ironic.asked, result.consistency) == (asked, consistency)


def test_a_second_try_that_is_refused_powers_the_instance_on_again(
    take: Take, ramdisk: Ramdisk
) -> None:
    ramdisk.ironic.node.update(
        provision_state="service failed",
        driver_internal_info={"service_steps": [{"interface": "deploy", "step": "snapshot"}]},
    )
    ramdisk.ironic.refusals[("PUT", "states/provision")] = [fault("too many services")]
    with pytest.raises(errors.NodeNotReady, match="too many services"):
        take(ramdisk.ironic)
    assert ramdisk.ironic.asked == ["soft power off", "power on"]


def test_a_second_try_whose_answers_are_lost_powers_the_instance_on_again(
    take: Take, ramdisk: Ramdisk
) -> None:
    # The service that failed is not this one, so it is not ended.
    ramdisk.ironic.node.update(
        provision_state="service failed", driver_internal_info={"service_steps": OTHERS}
    )
    ramdisk.ironic.refusals[("PUT", "states/provision")] = [Answer(None)]
    with pytest.raises(errors.IronicUnavailable):
        take(ramdisk.ironic)
    assert ramdisk.ironic.asked == ["soft power off", "power on"]


# The way back


def failing(ironic: FakeIronic, **failed: Any) -> Callable[[], None]:
    """Return the moment at which the step fails, and then Ironic's API once for each request."""

    def fail() -> None:
        ironic.node.update({**FAILED, **failed})
        for request in [
            ("PUT", "states/provision"), ("DELETE", "maintenance"), ("PUT", "states/power"),
        ]:  # fmt: skip
            ironic.refusals[request] = [Answer(502), Answer(None), Answer(500)]

    return fail


def test_an_api_that_fails_at_every_request_on_the_way_back_is_asked_again(
    take: Take, ramdisk: Ramdisk
) -> None:
    ramdisk.ironic.on_abort = [{"provision_state": "active", "power_state": "power off"}]
    fail = failing(
        ramdisk.ironic, maintenance=True, fault="service failure",
        maintenance_reason=FAILED["last_error"],
    )  # fmt: skip
    with pytest.raises(errors.CommandFailed, match="ReadFailed"):
        take(ramdisk.ironic, WAIT, ramdisk.begin, fail)
    assert ramdisk.ironic.asked[2:] == ["clear maintenance", "abort", "power on"]


NOT_BACK = "Failed to tear down service after aborting the operation"


@pytest.mark.parametrize(
    "left",
    [
        {"last_error": NOT_BACK},
        {"last_error": "It failed. Also failed to bring the instance back."},
        {
            "last_error": NOT_BACK, "maintenance": True, "fault": "service failure",
            "maintenance_reason": NOT_BACK,
        },
    ],
)  # fmt: skip
def test_an_abort_that_failed_in_ironic_is_told_and_what_it_left_stays(
    take: Take, ramdisk: Ramdisk, caplog: pytest.LogCaptureFixture, left: dict[str, Any]
) -> None:
    ramdisk.ironic.on_abort = [{"provision_state": "active", **left}]
    with pytest.raises(errors.CommandFailed, match="ReadFailed"):
        take(ramdisk.ironic, WAIT, ramdisk.begin, FAILED)
    assert "the instance may not be back: node node-1 is active, and its machine may" in caplog.text
    assert ramdisk.ironic.asked == ["soft power off", "service", "abort"]
    assert ramdisk.ironic.node.items() >= left.items()


def test_an_instance_that_is_not_known_to_be_back_is_no_active_node(
    take: Take, ramdisk: Ramdisk, tmp_path: Path
) -> None:
    ramdisk.ironic.on_abort = [{"provision_state": "active", "last_error": NOT_BACK}]
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, FAILED)
    assert (tmp_path / "new.qcow2").read_bytes() == DATA
    assert result.state == "unknown"
    assert "may not be back" in result.warnings[0]


def test_maintenance_that_somebody_set_after_the_failure_is_left(
    take: Take, ramdisk: Ramdisk, caplog: pytest.LogCaptureFixture
) -> None:
    # Ironic leaves the fault as it is then.
    theirs = {"maintenance": True, "fault": "service failure", "maintenance_reason": "a new PSU"}
    with pytest.raises(errors.CommandFailed, match="ReadFailed"):
        take(ramdisk.ironic, WAIT, ramdisk.begin, {**FAILED, **theirs})
    assert "in maintenance for another reason (a new PSU)" in caplog.text
    assert ramdisk.ironic.node.items() >= theirs.items()
    with pytest.raises(errors.NodeNotReady, match="a new PSU"):
        take(ramdisk.ironic)


def test_a_node_that_another_command_shuts_down_was_not_off(take: Take, ramdisk: Ramdisk) -> None:
    ramdisk.ironic.node.update(reservation="conductor-1", target_power_state="power off")
    ramdisk.ironic._coming = [{}, {}, OFF]
    take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE)
    assert ramdisk.ironic.asked == ["soft power off", "service"]
    assert ramdisk.ironic.node["power_state"] == "power on"


def test_the_power_of_another_instance_is_left_alone(take: Take, ramdisk: Ramdisk) -> None:
    ramdisk.ironic.node["power_state"] = "power off"
    deployed = {**ACTIVE, "instance_uuid": "another", "power_state": "power on"}
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, deployed)
    assert result.state == "active"
    assert ramdisk.ironic.asked == ["service"]


def test_a_node_is_the_same_when_its_name_is_given_away(take: Take, ramdisk: Ramdisk) -> None:
    take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE)
    assert ramdisk.ironic.idents == ["node-1", UUID]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


OFF = {"power_state": "power off", "target_power_state": None, "reservation": None}


@pytest.mark.parametrize("reservation", ["conductor-1", None])
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_instance_shuts_down_powers_it_on_again(
    take: Take, ramdisk: Ramdisk, reservation: str | None
) -> None:
    ramdisk.ironic.on_shutdown = [{"reservation": reservation}, interrupt, {}, {}, {}, OFF]
    with pytest.raises(KeyboardInterrupt):
        take(ramdisk.ironic)
    assert ramdisk.ironic.asked == ["soft power off", "power on"]
    assert ramdisk.ironic.node["power_state"] == "power on"


@pytest.mark.parametrize("state", ["active", "servicing"])
def test_an_interrupt_before_the_service_begins_powers_the_instance_on_again(
    take: Take, ramdisk: Ramdisk, state: str
) -> None:
    def on_progress(progress: Progress) -> None:
        if progress.phase == "boot":
            ramdisk.ironic.node["provision_state"] = state
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(ramdisk.ironic, on_progress=on_progress)
    on_again = ["power on"] if state == "active" else []
    assert ramdisk.ironic.asked == ["soft power off", *on_again]


def test_an_image_that_does_not_arrive_in_time_ends_in_an_abort(
    take: Take, ramdisk: Ramdisk, storage: Path
) -> None:
    with pytest.raises(errors.ServiceFailed, match="not done within 0 s and is snapshot wait"):
        take(ramdisk.ironic, WAIT, ramdisk.begin, handling=sdk.Handling(timeout_s=0.1))
    assert ramdisk.ironic.asked == ["soft power off", "service", "abort"]
    assert content(storage) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"progress": 1}', "x" * 2_000_000])
def test_what_is_not_a_whole_manifest_yet_is_looked_at_again(
    take: Take, ramdisk: Ramdisk, tmp_path: Path, text: str
) -> None:
    take(ramdisk.ironic, ramdisk.begin, lambda: ramdisk.tell(text), ramdisk.end, ACTIVE)
    assert (tmp_path / "new.qcow2").read_bytes() == DATA


def test_a_manifest_of_something_else_is_unusable(take: Take, storage: Path) -> None:
    ramdisk = Ramdisk(storage, size=0)
    with pytest.raises(errors.CommandFailed, match="an unusable result"):
        take(ramdisk.ironic, WAIT, ramdisk.begin, ramdisk.end, WAIT)
    assert ramdisk.ironic.asked[-1] == "abort"
    assert content(storage) == []


def test_an_image_that_changed_in_the_storage_does_not_arrive_and_is_not_kept(
    take: Take, storage: Path, tmp_path: Path
) -> None:
    ramdisk = Ramdisk(storage, size=len(DATA) + 1)
    with pytest.raises(errors.StorageMismatch):
        take(ramdisk.ironic, ramdisk.begin, ramdisk.end, ACTIVE)
    assert content(storage) == []
    assert not (tmp_path / "new.qcow2").exists()


def test_a_storage_that_is_away_while_the_node_is_done_decides_nothing(
    take: Take, ramdisk: Ramdisk, tmp_path: Path
) -> None:
    def hide() -> None:
        ramdisk.end()
        ramdisk.collection.rename(ramdisk.collection.with_suffix(".away"))
        ramdisk.collection.touch()  # a file in its place: the storage answers with an error
        ramdisk.ironic.node.update(ACTIVE)

    def show() -> None:
        ramdisk.collection.unlink()
        ramdisk.collection.with_suffix(".away").rename(ramdisk.collection)

    take(ramdisk.ironic, ramdisk.begin, hide, {}, {}, show)
    assert (tmp_path / "new.qcow2").read_bytes() == DATA


@pytest.mark.parametrize("moments", [1, 3])
def test_an_interrupt_touches_neither_the_node_nor_what_it_writes(
    take: Take, ramdisk: Ramdisk, storage: Path, moments: int
) -> None:
    def interrupt() -> None:
        raise_in_main.append(True)

    raise_in_main: list[bool] = []

    def on_progress(progress: Progress) -> None:
        if raise_in_main:
            raise KeyboardInterrupt

    script = [WAIT, ramdisk.begin, lambda: ramdisk.tell('{"progress": {"phase": "x"}}')]
    with pytest.raises(KeyboardInterrupt):
        take(
            ramdisk.ironic, ramdisk.begin, interrupt, ramdisk.begin, *script[:moments],
            on_progress=on_progress,
        )  # fmt: skip
    assert ramdisk.ironic.asked == ["soft power off", "service"]
    assert content(storage) != []


# An upload that fails, and is resumed


def test_an_image_that_cannot_be_uploaded_is_kept_and_resumed(
    take: Take, ramdisk: Ramdisk, storage: Path, tmp_path: Path,
    serve: Callable[[Respond], AnsweringServer],
) -> None:  # fmt: skip
    images = tmp_path / "images"
    images.mkdir()

    def end() -> None:
        ramdisk.end()
        images.rename(tmp_path / "images.away")

    with pytest.raises(errors.UploadFailed, match="is kept as") as caught:
        take(ramdisk.ironic, ramdisk.begin, end, ACTIVE, image="file://%s/new" % images)
    assert caught.value.word == "UploadFailed"
    assert str(caught.value).endswith("--resume " + ramdisk.name)
    assert ramdisk.ironic.asked == ["soft power off", "service"]
    assert len(content(storage)) == 3

    images.mkdir()
    result = sdk.upload_captured(
        connect(serve(ramdisk.ironic).url), "node-1", ramdisk.name,
        image="file://%s/new" % images, storage=StorageAccess.of("file://%s" % storage),
    )  # fmt: skip
    assert (images / "new").read_bytes() == DATA
    assert (result.state, result.consistency) == ("active", None)
    assert content(storage) == []


def test_an_image_that_cannot_be_uploaded_is_discarded_if_that_is_wanted(
    take: Take, ramdisk: Ramdisk, storage: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()

    def end() -> None:
        ramdisk.end()
        images.rename(tmp_path / "images.away")

    with pytest.raises(errors.SnapshotError) as caught:
        take(
            ramdisk.ironic, ramdisk.begin, end, ACTIVE, image="file://%s/new" % images,
            keep_for_retry=False,
        )  # fmt: skip
    assert "--resume" not in str(caught.value)
    assert content(storage) == []


@pytest.mark.parametrize("same", [True, False])
def test_an_image_that_arrived_unconfirmed_is_resumed_without_another_upload(
    storage: Path, serve: Callable[[Respond], AnsweringServer], same: bool
) -> None:
    (storage / UUID).mkdir()
    (storage / UUID / "image").write_bytes(DATA)
    (storage / UUID / "image.json").write_text(json.dumps(result_about("image", DATA)))
    digest = hashlib.sha512(DATA).hexdigest() if same else "0" * 128
    glance = FakeGlance("active", os_hash_algo="sha512", os_hash_value=digest)
    url = serve(glance).url + "/v2"

    def resume() -> sdk.NodeSnapshot:
        return sdk.upload_captured(
            connect(serve(FakeIronic()).url, image_endpoint_override=url), "node-1", "image",
            image=IMAGE, storage=StorageAccess.of("file://%s" % storage),
        )  # fmt: skip

    if same:
        snapshot = resume().snapshot
        assert snapshot is not None
        assert (snapshot.sha512, snapshot.size) == (digest, len(DATA))
        assert content(storage) == []
    else:
        with pytest.raises(errors.ImageNotQueued):
            resume()
        assert len(content(storage)) == 3


def test_what_was_not_captured_to_the_end_is_not_resumed(
    storage: Path, tmp_path: Path, serve: Callable[[Respond], AnsweringServer]
) -> None:
    (storage / UUID).mkdir()
    (storage / UUID / "half.json").write_text('{"progress": {"phase": "stream"}}')
    for name in ("half", "no-such"):
        with pytest.raises(errors.InvalidRequest, match="no image that was captured to the end"):
            sdk.upload_captured(
                connect(serve(FakeIronic()).url), "node-1", name,
                image="file://%s/new" % tmp_path, storage=StorageAccess.of("file://%s" % storage),
            )  # fmt: skip
    assert os.listdir(storage / UUID) == ["half.json"]


# With the conductor's plug-in


IMAGE = "66498c26-a9b5-496c-97a8-5bc08f256155"


@pytest.fixture
def glance() -> FakeGlance:
    return FakeGlance()


@pytest.fixture
def with_plugin() -> FakeIronic:
    return FakeIronic(vendor_interface="snapshot")


def finished(ironic: FakeIronic, glance: FakeGlance) -> Moment:
    def finish() -> None:
        glance.status = "active"
        ironic.node.update(ACTIVE)

    return finish


GENERATION = "0123456789abcdef0123456789abcdef"
KEPT = GENERATION + ".qcow2"


def remembered(phase: str, image_ref: str = IMAGE) -> dict[str, Any]:
    """Return what the plug-in keeps on a node, of a snapshot that was captured."""
    captured = Captured.parse(result_about(KEPT, DATA))
    record = SnapshotRecord(
        GENERATION, image_ref, Phase(phase), 0, sdk.CaptureOptions(), captured=captured
    )
    return {KEY: Book(record).to_wire()}


def test_with_the_plug_in_its_phases_are_the_progress(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    def moment(phase: str, image_ref: str = IMAGE) -> Callable[[], None]:
        return lambda: with_plugin.node["driver_internal_info"].update(remembered(phase, image_ref))

    told: list[Progress] = []
    moments = [WAIT, moment("kept"), moment("capturing", "of another snapshot"),
               *map(moment, ("requested", "starting", "capturing", "uploading", "done")),
               {"driver_internal_info": {KEY: "of another version"}},
               finished(with_plugin, glance)]  # fmt: skip
    take(with_plugin, *moments, image=IMAGE, storage=None, glance=glance, on_progress=told.append)
    assert list(dict.fromkeys(one.phase for one in told)) == [
        "shut down", "boot", "requested", "starting", "capturing", "uploading", "return",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"owner": "somebody"}, "belongs to the project somebody"),
        ({"visibility": "public"}, "is public"),
        ({"status": "active"}, "is active, expected queued"),
    ],
)
def test_with_the_plug_in_an_image_that_the_conductor_would_refuse_is_refused_before(
    take: Take, with_plugin: FakeIronic, image: dict[str, Any], message: str
) -> None:
    with pytest.raises((errors.InvalidRequest, errors.ImageNotQueued), match=message):
        take(with_plugin, image=IMAGE, storage=None, glance=FakeGlance(**image))
    assert with_plugin.asked == []


@pytest.mark.parametrize(
    "node",
    [
        {"owner": None, "lessee": PROJECT},
        {"owner": "another", "instance_info": {"project_id": PROJECT}},
    ],
)
def test_with_the_plug_in_the_image_may_be_of_the_lessee_or_the_instance_s_project(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance, node: dict[str, Any]
) -> None:
    with_plugin.node.update(node)
    done = finished(with_plugin, glance)
    assert take(with_plugin, done, image=IMAGE, storage=None, glance=glance).state == "active"


SNAPSHOT_WAIT = {"provision_state": "snapshot wait"}


def test_an_ironic_that_knows_the_verb_is_asked_by_it(take: Take, glance: FakeGlance) -> None:
    ironic = FakeIronic(snapshot_interface="agent", vendor_interface="snapshot")
    done = finished(ironic, glance)
    result = take(ironic, SNAPSHOT_WAIT, done, image=IMAGE, storage=None, glance=glance)
    assert (result.state, result.image_ref) == ("active", IMAGE)
    assert ironic.asked == ["soft power off", "snapshot"]


def test_what_the_verb_cannot_say_is_a_service_s_step(take: Take, glance: FakeGlance) -> None:
    ironic = FakeIronic(snapshot_interface="agent", vendor_interface="snapshot")
    done = finished(ironic, glance)
    options = sdk.CaptureOptions(expected_serial="S")
    take(ironic, WAIT, done, image=IMAGE, storage=None, glance=glance, options=options)
    assert ironic.asked == ["soft power off", "service"]


def test_a_failure_of_the_verb_is_told_and_the_node_led_out_of_it(
    take: Take, glance: FakeGlance
) -> None:
    ironic = FakeIronic(snapshot_interface="agent")
    said = "The snapshot of node %s failed. DeviceNotFound: no such disk" % UUID
    failed = {"provision_state": "snapshot failed", "last_error": said}
    with pytest.raises(errors.CommandFailed, match="DeviceNotFound: no such disk"):
        take(ironic, SNAPSHOT_WAIT, failed, image=IMAGE, storage=None, glance=glance)
    assert ironic.asked == ["soft power off", "snapshot", "abort"]
    assert ironic.node["provision_state"] == "active"


def test_a_snapshot_that_failed_is_taken_again_by_the_verb(take: Take, glance: FakeGlance) -> None:
    ironic = FakeIronic(snapshot_interface="agent", provision_state="snapshot failed")
    done = finished(ironic, glance)
    result = take(ironic, done, image=IMAGE, storage=None, glance=glance)
    assert (result.state, result.consistency) == ("active", "clean")
    assert ironic.asked == ["soft power off", "snapshot"]


@pytest.mark.parametrize(
    ("info", "asked"),
    [
        ({"snapshot_ramdisk": "tried"}, ["snapshot"]),
        ({"content": "** Redacted - requires a permission. **"}, ["soft power off", "snapshot"]),
    ],
)
def test_of_a_second_try_by_the_verb_it_may_not_be_known_that_the_instance_is_shut_down(
    take: Take, glance: FakeGlance, info: dict[str, str], asked: list[str]
) -> None:
    ironic = FakeIronic(snapshot_interface="agent", provision_state="snapshot failed")
    ironic.shown = {"driver_internal_info": info}
    done = finished(ironic, glance)
    result = take(ironic, done, image=IMAGE, storage=None, glance=glance)
    assert (ironic.asked, result.consistency) == (asked, "crash")


Resume = Callable[..., sdk.NodeSnapshot]


@pytest.fixture
def resume(serve: Callable[[Respond], AnsweringServer]) -> Resume:
    def resume(
        ironic: FakeIronic, *moments: Moment, glance: FakeGlance, name: str = KEPT
    ) -> sdk.NodeSnapshot:
        ironic.on_service = list(moments)
        connection = connect(serve(ironic).url, image_endpoint_override=serve(glance).url + "/v2")
        return sdk.upload_captured(connection, "node-1", name, image=IMAGE)

    return resume


@pytest.mark.parametrize("phase", ["kept", "uploading"])
def test_what_the_conductor_has_kept_is_uploaded_by_it_and_the_machine_left_alone(
    resume: Resume, with_plugin: FakeIronic, glance: FakeGlance, phase: str
) -> None:
    # An upload that was aborted leaves the phase as it was.
    with_plugin.node["driver_internal_info"] = remembered(phase)
    snapshot = resume(with_plugin, WAIT, finished(with_plugin, glance), glance=glance)
    assert with_plugin.services == [
        {"interface": "vendor", "step": "upload_snapshot", "args": {"image_ref": IMAGE}}
    ]
    assert with_plugin.asked == ["service"]
    assert (snapshot.state, snapshot.consistency) == ("active", None)


def test_the_machine_is_left_alone_too_when_that_fails(
    resume: Resume, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    with_plugin.node["driver_internal_info"] = remembered("kept")
    said = "Service step vendor.upload_snapshot failed on node %s. UploadFailed: no room" % UUID
    with pytest.raises(errors.SnapshotError, match="UploadFailed: no room"):
        resume(with_plugin, WAIT, {**FAILED, "last_error": said}, glance=glance)
    # An abort would cut the power of an instance that runs.
    assert with_plugin.asked == ["service"]
    with_plugin.node["driver_internal_info"].update(remembered("kept"))
    resume(with_plugin, WAIT, finished(with_plugin, glance), glance=glance)
    assert with_plugin.asked == ["service", "service"]


@pytest.mark.parametrize("same", [True, False])
def test_what_glance_has_unconfirmed_is_for_the_conductor_to_see(
    resume: Resume, with_plugin: FakeIronic, same: bool
) -> None:
    digest = hashlib.sha512(DATA).hexdigest() if same else "0" * 128
    glance = FakeGlance("active", os_hash_algo="sha512", os_hash_value=digest)
    with_plugin.node["driver_internal_info"] = remembered("kept")
    if same:
        assert resume(with_plugin, WAIT, ACTIVE, glance=glance).state == "active"
    else:
        with pytest.raises(errors.ImageNotQueued):
            resume(with_plugin, glance=glance)
    assert with_plugin.asked == (["service"] if same else [])


@pytest.mark.parametrize(
    ("info", "name"),
    [(remembered("done"), KEPT), (remembered("kept"), "another"), ({}, KEPT)],
)
def test_what_the_conductor_has_not_kept_is_not_asked_of_it(
    resume: Resume, with_plugin: FakeIronic, glance: FakeGlance, info: dict[str, Any], name: str
) -> None:
    with_plugin.node["driver_internal_info"] = info
    with pytest.raises(errors.InvalidRequest, match="the storage is needed"):
        resume(with_plugin, glance=glance, name=name)
    assert with_plugin.asked == []


def test_with_the_plug_in_the_service_is_asked_for_and_waited_for(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    done = finished(with_plugin, glance)
    result = take(with_plugin, WAIT, WAIT, done, image=IMAGE, storage=None, glance=glance)
    assert with_plugin.services == [
        {"interface": "vendor", "step": "snapshot", "args": {"image_ref": IMAGE}}
    ]
    assert with_plugin.asked == ["soft power off", "service"]
    assert (result.state, result.consistency, result.snapshot) == ("active", "clean", None)


def test_with_the_plug_in_a_glance_that_is_away_for_a_moment_decides_nothing(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    def finish() -> None:
        glance.outages = 2
        finished(with_plugin, glance)()  # type: ignore[operator]

    assert (
        take(with_plugin, WAIT, finish, image=IMAGE, storage=None, glance=glance).state == "active"
    )
    assert glance.outages == 0
    assert with_plugin.asked == ["soft power off", "service"]


def test_with_the_plug_in_it_need_not_be_waited_for(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    result = take(with_plugin, WAIT, image=IMAGE, storage=None, wait=False, glance=glance)
    assert (with_plugin.node["provision_state"], result.state) == ("servicing", "snapshotting")


def test_with_the_plug_in_the_data_of_another_node_is_no_success(
    take: Take, with_plugin: FakeIronic
) -> None:
    glance = FakeGlance(os_hash_algo="sha512", os_hash_value="a" * 128)
    uploading = {"driver_internal_info": remembered("uploading")}
    with pytest.raises(errors.ServiceFailed, match="without an image"):
        take(
            with_plugin, WAIT, uploading, finished(with_plugin, glance), image=IMAGE, storage=None,
            glance=glance,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("last_error", "message"),
    [
        ("By request, the service operation was aborted", "it was aborted"),
        ("** Value Redacted - Requires permission. **", "does not show to this account"),
    ],
)
def test_with_the_plug_in_an_abort_is_no_success(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance, last_error: str, message: str
) -> None:
    aborted = {**ACTIVE, "last_error": last_error}
    with pytest.raises(errors.ServiceFailed, match=message):
        take(with_plugin, WAIT, aborted, image=IMAGE, storage=None, glance=glance)


def test_with_the_plug_in_a_failure_is_brought_back(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    with pytest.raises(errors.CommandFailed, match="ReadFailed"):
        take(with_plugin, WAIT, FAILED_BY_PLUGIN, image=IMAGE, storage=None, glance=glance)
    # The plug-in has powered the instance on: an abort would cut its power in mid-boot.
    assert with_plugin.asked == ["soft power off", "service", "service without a ramdisk"]
    assert with_plugin.node["provision_state"] == "active"


@pytest.mark.parametrize(
    ("fields", "consistency"), [({}, "clean"), ({"power_state": "power off"}, "crash")]
)
def test_with_the_plug_in_a_second_try_shuts_down_the_instance_which_runs(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance, fields: dict[str, Any],
    consistency: str,
) -> None:  # fmt: skip
    step = {"interface": "vendor", "step": "snapshot", "args": {}}
    with_plugin.node.update(
        {**FAILED_BY_PLUGIN, "driver_internal_info": {"service_steps": [step]}, **fields}
    )
    done = finished(with_plugin, glance)
    result = take(with_plugin, WAIT, done, image=IMAGE, storage=None, glance=glance)
    shutdown = ["soft power off"] if consistency == "clean" else []
    assert (with_plugin.asked, result.consistency) == ([*shutdown, "service"], consistency)


@pytest.mark.parametrize("fields", [{}, {"snapshot_interface": "agent"}])
def test_a_node_that_the_conductor_brings_back_cannot_be_left_as_it_failed(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance, fields: dict[str, str]
) -> None:
    with_plugin.node.update(fields)
    handling = sdk.Handling(leave_failed=True, timeout_s=1)
    with pytest.raises(errors.InvalidRequest, match=r"--leave-failed.*the ramdisk's own step"):
        take(with_plugin, image=IMAGE, storage=None, glance=glance, handling=handling)
    assert with_plugin.asked == []


def test_who_takes_the_snapshot_is_asked_once(
    take: Take, with_plugin: FakeIronic, glance: FakeGlance
) -> None:
    step = {"interface": "vendor", "step": "snapshot", "args": {"image_ref": IMAGE}}
    way = plugin.Way(Record.parse(with_plugin.node), ServiceStep(step))
    # It changes meanwhile.
    with_plugin.node["vendor_interface"] = "no-vendor"
    done = finished(with_plugin, glance)
    take(with_plugin, WAIT, done, image=IMAGE, storage=None, glance=glance, way=way)
    assert with_plugin.services == [step]


def test_with_the_plug_in_an_image_that_is_not_there_is_refused_at_once(
    take: Take, with_plugin: FakeIronic, tmp_path: Path
) -> None:
    with pytest.raises(errors.ImageNotQueued):
        take(with_plugin, image=IMAGE, glance=FakeGlance(status=None))
    with pytest.raises(errors.InvalidRequest, match="takes the UUID of an image in Glance"):
        take(with_plugin, image="file://%s/new" % tmp_path)
    assert with_plugin.asked == []


HIDDEN = "** Redacted - requires baremetal:node:get:reservation permission. **"


@pytest.fixture
def for_a_lessee(with_plugin: FakeIronic) -> FakeIronic:
    """As Ironic 39 shows a node to an account of its lessee's."""
    with_plugin.node.update(reservation=HIDDEN, last_error=HIDDEN)
    with_plugin.shown = {"driver_internal_info": {"content": HIDDEN}}
    return with_plugin


def test_a_lessee_who_is_not_shown_the_lock_can_take_a_snapshot(
    take: Take, for_a_lessee: FakeIronic, glance: FakeGlance
) -> None:
    done = finished(for_a_lessee, glance)
    assert take(for_a_lessee, done, image=IMAGE, storage=None, glance=glance).state == "active"


def test_a_lessee_who_is_not_shown_what_failed_can_try_again(
    take: Take, for_a_lessee: FakeIronic, glance: FakeGlance
) -> None:
    for_a_lessee.node.update(
        provision_state="service failed", maintenance=True, fault="service failure"
    )
    done = finished(for_a_lessee, glance)
    assert take(for_a_lessee, done, image=IMAGE, storage=None, glance=glance).state == "active"
    assert for_a_lessee.asked == ["clear maintenance", "service"]


def test_the_snapshot_of_a_lessee_that_fails_is_brought_back(
    take: Take, for_a_lessee: FakeIronic, glance: FakeGlance
) -> None:
    failed = {"provision_state": "service failed", "last_error": HIDDEN, "service_step": {}}
    with pytest.raises(errors.ServiceFailed, match="does not show to this account"):
        take(for_a_lessee, WAIT, failed, image=IMAGE, storage=None, glance=glance)
    assert for_a_lessee.asked == ["soft power off", "service", "soft power off", "abort"]


def test_what_is_not_shown_of_a_kept_image_is_left_to_the_conductor(
    resume: Resume, for_a_lessee: FakeIronic, glance: FakeGlance
) -> None:
    resume(for_a_lessee, WAIT, finished(for_a_lessee, glance), glance=glance)
    assert for_a_lessee.asked == ["service"]


def test_what_a_lessee_cannot_tell_from_another_service_is_not_aborted(
    take: Take, ramdisk: Ramdisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_NOTICE_S", 0.05)
    ramdisk.ironic.shown = {"driver_internal_info": {"content": HIDDEN}}
    result = take(ramdisk.ironic, ramdisk.begin, ramdisk.end, WAIT)
    assert (tmp_path / "new.qcow2").read_bytes() == DATA
    assert result.state == "snapshot wait"
    assert ramdisk.ironic.asked == ["soft power off", "service"]
