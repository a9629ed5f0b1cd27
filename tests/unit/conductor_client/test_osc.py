# SPDX-License-Identifier: Apache-2.0
"""``openstack baremetal node snapshot``: its options, its columns and its errors."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from osc_lib import exceptions

from conductor_client import interrupts, osc, recovery, sdk, service
from snapshot_core.progress import Progress
from tests.unit.conductor_client.fake_agent import as_json, result_about
from tests.unit.conductor_client.fake_ironic import UUID, FakeGlance, FakeIronic, connect
from tests.unit.conductor_client.test_sdk import (
    ACTIVE,
    DATA,
    FAILED,
    IMAGE,
    KEPT,
    WAIT,
    Ramdisk,
    finished,
    remembered,
)
from tests.unit.http_server import Answer, AnsweringServer, Request, Respond

Capture = pytest.CaptureFixture[str]
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (service, recovery):
        monkeypatch.setattr(module, "_POLL_S", 0.005)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    monkeypatch.setenv("IRONIC_SNAPSHOT_STORAGE_URL", "file://%s" % path)
    return path


@pytest.fixture
def ramdisk(storage: Path) -> Ramdisk:
    made = Ramdisk(storage)
    made.ironic.on_service = [WAIT, made.begin, made.end, ACTIVE]
    return made


@pytest.fixture
def run(serve: Callable[[Respond], AnsweringServer]) -> Callable[..., Row]:
    """Return a function that runs the command with these arguments."""

    def run(ironic: FakeIronic, *arguments: str, glance: Respond | None = None) -> Row:
        url = serve(glance or FakeGlance()).url + "/v2"
        connection = connect(serve(ironic).url, image_endpoint_override=url)
        app = SimpleNamespace(client_manager=SimpleNamespace(sdk_connection=connection))
        command = osc.NodeSnapshot(app, None)
        parsed = command.get_parser("openstack baremetal node snapshot").parse_args(
            ["node-1", *arguments]
        )
        return dict(zip(*command.take_action(parsed), strict=True))

    return run


Run = Callable[..., Row]


def test_openstack_finds_the_command() -> None:
    (found,) = metadata.entry_points(group="openstack.baremetal.v1", name="baremetal_node_snapshot")
    assert found.load() is osc.NodeSnapshot


def test_the_columns_tell_of_the_image_and_of_the_node(
    run: Run, ramdisk: Ramdisk, tmp_path: Path, capsys: Capture
) -> None:
    row = run(ramdisk.ironic, "--image", "file://%s/new" % tmp_path)
    assert (row["node"], row["state"], row["consistency"], row["size"], row["sha512"]) == (
        UUID, "active", "clean", len(DATA), hashlib.sha512(DATA).hexdigest(),
    )  # fmt: skip
    assert row["captured"].machine_readable()["image_name"] == ramdisk.name
    assert row["warnings"].machine_readable() == []
    out, err = capsys.readouterr()
    assert out == ""
    assert "The conductor has no plug-in for snapshots: this command uploads" in err
    assert [line for line in err.splitlines() if line.startswith("upload: ")]


def test_who_waits_by_wish_is_not_told_that(run: Run, ramdisk: Ramdisk, tmp_path: Path,
                                            capsys: Capture) -> None:  # fmt: skip
    run(ramdisk.ironic, "--image", "file://%s/new" % tmp_path, "--wait")
    assert "plug-in" not in capsys.readouterr().err


def test_the_options_reach_the_step(run: Run, ramdisk: Ramdisk, tmp_path: Path) -> None:
    run(
        ramdisk.ironic, "--image", "file://%s/new" % tmp_path, "--writer", "dd",
        "--compression", "none", "--bad-sectors", "zero", "--expected-serial", "SN",
        "--expected-wwn", "0x5", "--keep-for", "2h", "--no-shutdown",
    )  # fmt: skip
    (step,) = ramdisk.ironic.services
    del step["args"]["image_name"]
    assert step["args"] == {
        "image_ref": "file://%s/new" % tmp_path, "keep_s": 7200,
        "writer": "dd", "compression": "none", "bad_sectors": "zero", "expected_serial": "SN",
        "expected_wwn": "0x5",
    }  # fmt: skip
    assert ramdisk.ironic.asked == ["service"]


def test_the_node_is_asked_once_who_takes_the_snapshot(run: Run, storage: Path) -> None:
    class Changing(FakeIronic):
        def __call__(self, request: Request) -> Answer:
            answer = super().__call__(request)
            if request.query == "fields=snapshot_interface":
                # The verb is there from now on.
                self.node["snapshot_interface"] = "agent"
            return answer

    ironic = Changing(vendor_interface="snapshot")
    run(ironic, "--image", IMAGE)
    assert ironic.asked == ["soft power off", "service"]


def test_a_node_of_the_conductor_s_is_not_left_failed(run: Run) -> None:
    ironic = FakeIronic(vendor_interface="snapshot")
    with pytest.raises(exceptions.CommandError, match=r"InvalidRequest: .*\(--leave-failed\)"):
        run(ironic, "--image", IMAGE, "--wait", "--leave-failed")
    assert ironic.asked == []


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["--discard-on-failure", "--keep-for", "1h"], "--discard-on-failure, --keep-for"),
        (["--resume", KEPT, "--writer", "dd", "--no-shutdown"], "--writer, --no-shutdown"),
        (["--resume", KEPT, "--leave-failed"], "--leave-failed"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    run: Run, arguments: list[str], refused: str
) -> None:
    ironic = FakeIronic(vendor_interface="snapshot")
    ironic.node["driver_internal_info"] = remembered("kept")
    with pytest.raises(exceptions.CommandError, match="InvalidRequest: .*: leave %s out" % refused):
        run(ironic, "--image", IMAGE, *arguments)
    assert ironic.asked == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_service_manager_s_stop_and_a_lost_terminal_power_the_instance_on_again(
    run: Run, ramdisk: Ramdisk, tmp_path: Path, number: int
) -> None:
    before = signal.getsignal(number)
    off = {"power_state": "power off", "target_power_state": None}
    ramdisk.ironic.on_shutdown = [{}, lambda: os.kill(os.getpid(), number), {}, {}, off]
    with pytest.raises(KeyboardInterrupt):
        run(ramdisk.ironic, "--image", "file://%s/new" % tmp_path)
    assert ramdisk.ironic.asked == ["soft power off", "power on"]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("state", "code"), [("active", 0), ("snapshotting", 0), (sdk.UNKNOWN, 1)])
def test_the_exit_code_is_1_if_the_instance_may_not_be_back(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, state: str, code: int
) -> None:
    snapshot = sdk.NodeSnapshot(UUID, IMAGE, state, "clean", None)
    monkeypatch.setattr(osc, "_take", lambda *_arguments: snapshot)
    app = SimpleNamespace(
        client_manager=SimpleNamespace(sdk_connection=None), stdout=sys.stdout,
        options=SimpleNamespace(),
    )  # fmt: skip
    command = osc.NodeSnapshot(app, None)
    parsed = command.get_parser("snapshot").parse_args(
        ["node-1", "--image", IMAGE, "-f", "value", "-c", "state"]
    )
    assert command.run(parsed) == code
    assert capsys.readouterr().out.split() == [state]


def test_an_error_is_one_line_with_its_word(run: Run, ramdisk: Ramdisk, tmp_path: Path) -> None:
    ramdisk.ironic.on_service = [{**FAILED, "last_error": FAILED["last_error"] + "\nand more"}]
    with pytest.raises(exceptions.CommandError) as caught:
        run(ramdisk.ironic, "--image", "file://%s/new" % tmp_path)
    assert str(caught.value) == ("CommandFailed: the agent reports ReadFailed: sector 1 and more")


def test_without_a_storage_it_is_said_how_to_name_one(run: Run, tmp_path: Path) -> None:
    ironic = FakeIronic()
    with pytest.raises(exceptions.CommandError, match="set IRONIC_SNAPSHOT_STORAGE_URL"):
        run(ironic, "--image", "file://%s/new" % tmp_path)
    assert ironic.asked == []


class CreatingGlance(FakeGlance):
    """Makes images, and deletes them."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, bytes]] = []

    def __call__(self, request: Request) -> Answer:
        if request.method in ("POST", "DELETE"):
            self.requests.append((request.method, request.body))
        if request.method == "POST":
            return as_json({"id": IMAGE, "status": "queued"}, 201)
        return super().__call__(request)


def test_an_image_that_was_made_goes_again_if_the_snapshot_fails(
    run: Run, ramdisk: Ramdisk
) -> None:
    ramdisk.ironic.on_service = [FAILED]
    glance = CreatingGlance()
    with pytest.raises(exceptions.CommandError, match="ReadFailed"):
        run(ramdisk.ironic, "--create", "master", glance=glance)
    (_post, made), (delete, _body) = glance.requests
    assert b'"name": "master"' in made
    assert b'"visibility": "private"' in made
    assert UUID.encode() in made
    assert delete == "DELETE"


def test_an_image_that_was_made_stays_once_it_has_data(run: Run, ramdisk: Ramdisk) -> None:
    glance = CreatingGlance()

    def fail() -> None:
        glance.status = "active"
        ramdisk.ironic.node.update(FAILED)

    ramdisk.ironic.node["vendor_interface"] = "snapshot"
    ramdisk.ironic.on_service = [WAIT, fail]
    with pytest.raises(exceptions.CommandError, match="ReadFailed"):
        run(ramdisk.ironic, "--create", "master", "--wait", glance=glance)
    assert [method for method, _body in glance.requests] == ["POST"]


def test_with_the_plug_in_nothing_is_asked_of_a_storage(run: Run) -> None:
    ironic = FakeIronic([WAIT, ACTIVE], vendor_interface="snapshot")
    row = run(ironic, "--image", IMAGE)
    assert (row["state"], row["size"]) == ("snapshotting", None)
    glance = FakeGlance()
    ironic = FakeIronic(vendor_interface="snapshot")
    ironic.on_service = [WAIT, finished(ironic, glance)]
    row = run(ironic, "--image", IMAGE, "--wait", glance=glance)
    assert (row["state"], row["consistency"]) == ("active", "clean")


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--image", "x", "--create", "y"], ["--image", "x", "--timeout", "0"],
        ["--image", "x", "--keep-for", "7"],
        ["--image", "x", "--shutdown-timeout", "-1"], ["--image", "x", "--image-format", "vmdk"],
        ["--image", "x", "--no-shutdown", "--shutdown-timeout", "5"],
        ["--image", "x", "--storage-cacert", "ca.pem", "--storage-insecure"],
    ],
)  # fmt: skip
def test_a_wrong_usage_is_refused(run: Run, arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        run(FakeIronic(), *arguments)
    assert "usage: openstack baremetal node snapshot" in capsys.readouterr().err


def interrupted(run: Callable[[], object], capsys: Capture) -> str:
    """Interrupt what ``run`` does at a moment that it chooses; return what is said then."""
    before = signal.getsignal(signal.SIGINT)
    run()
    assert signal.getsignal(signal.SIGINT) is before
    return capsys.readouterr().err


def test_an_interrupt_says_what_goes_on_and_how_to_go_on_later(
    run: Run, ramdisk: Ramdisk, tmp_path: Path, capsys: Capture
) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    ramdisk.ironic.on_service = [WAIT, ramdisk.begin, interrupt, {}, {}, ramdisk.end, ACTIVE]
    target = "file://%s/new" % tmp_path
    said = interrupted(lambda: run(ramdisk.ironic, "--image", target), capsys)
    assert "The snapshot of node-1 goes on (stream)" in said
    assert "openstack baremetal node abort node-1; this command then cleans up" in said
    assert "--resume %s" % ramdisk.name in said


def test_with_the_plug_in_an_interrupt_says_that_the_conductor_goes_on(
    run: Run, capsys: Capture
) -> None:
    glance = FakeGlance()
    ironic = FakeIronic(vendor_interface="snapshot")
    ironic.on_service = [
        WAIT, lambda: os.kill(os.getpid(), signal.SIGINT), {}, {}, finished(ironic, glance),
    ]  # fmt: skip
    said = interrupted(lambda: run(ironic, "--image", IMAGE, "--wait", glance=glance), capsys)
    assert "openstack baremetal node abort node-1; the conductor then cleans up" in said
    assert "the conductor goes on" in said
    assert "--resume" not in said


def said_in(texts: interrupts.Texts, capsys: Capture, *phases: str) -> str:
    """Return what the first interrupt says after these phases; see that the second one ends."""
    before = signal.getsignal(signal.SIGINT)
    with interrupts.Interrupts(texts, lambda progress: None) as tell:
        for phase in phases:
            tell(Progress(phase))
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    return capsys.readouterr().err


ABORT = "openstack baremetal node abort node-1"


@pytest.mark.parametrize("name", ["image", None])
@pytest.mark.parametrize(
    ("phases", "said", "abort"),
    [
        ([], "Nothing was changed yet.", False),
        (["shut down"], "ends this command, once it has powered the instance on again", False),
        (["shut down", "boot"], "The snapshot of node-1 goes on (boot). To abort it:", True),
        (["boot", "upload"], "The snapshot of node-1 goes on (upload). To abort it:", True),
        (["boot", "return"], "if the node stays in a failed state: " + ABORT, True),
    ],
)
def test_what_an_interrupt_says_is_right_for_the_phase(
    capsys: Capture, name: str | None, phases: list[str], said: str, abort: bool
) -> None:
    text = said_in(interrupts.texts_of_snapshot("node-1", name), capsys, *phases)
    assert said in text
    assert (ABORT in text) is abort


def test_an_upload_is_not_ended_by_an_abort(capsys: Capture) -> None:
    texts = interrupts.texts_of_snapshot("node-1", "image")
    text = said_in(texts, capsys, "boot", "upload", "captured", "fetch", "upload")
    assert "its image is being uploaded (upload)" in text
    assert "and then: openstack baremetal node snapshot node-1 --image IMAGE --resume image" in text
    assert ABORT not in text
    text = said_in(interrupts.texts_of_resume("node-1", by_conductor=True), capsys, "uploading")
    assert "an abort would also cut the power of node-1" in text
    assert ABORT not in text


def test_an_interrupt_of_a_resumed_upload_says_that_it_goes_on(
    run: Run, storage: Path, capsys: Capture
) -> None:
    (storage / UUID).mkdir()
    (storage / UUID / "image").write_bytes(DATA)
    (storage / UUID / "image.json").write_text(json.dumps(result_about("image", DATA)))
    target = storage / "new"
    with pytest.MonkeyPatch.context() as patch:

        def interrupt(progress: Progress) -> None:
            if progress.phase == "upload":
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(osc.ProgressDisplay, "__call__", lambda self, progress: interrupt(progress))
        said = interrupted(
            lambda: run(FakeIronic(), "--image", "file://%s" % target, "--resume", "image"), capsys
        )
    assert "The upload goes on (upload). Ctrl-C again ends it" in said
    assert target.read_bytes() == DATA


def test_what_the_conductor_has_kept_is_resumed_without_a_storage(run: Run) -> None:
    glance = FakeGlance()
    ironic = FakeIronic(vendor_interface="snapshot", driver_internal_info=remembered("kept"))
    ironic.on_service = [WAIT, finished(ironic, glance)]
    row = run(ironic, "--image", IMAGE, "--resume", KEPT, "--wait", glance=glance)
    assert row["state"] == "active"
    assert ironic.services == [
        {"interface": "vendor", "step": "upload_snapshot", "args": {"image_ref": IMAGE}}
    ]
    with pytest.raises(exceptions.CommandError, match="set IRONIC_SNAPSHOT_STORAGE_URL"):
        run(ironic, "--image", IMAGE, "--resume", "another", glance=glance)
