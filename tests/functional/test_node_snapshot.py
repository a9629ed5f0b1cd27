# SPDX-License-Identifier: Apache-2.0
"""``openstack baremetal node snapshot``: a node through a real Ironic, its image into Glance."""

import hashlib
import json
import pathlib
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conductor_client.states import spoken
from tests.functional.commands import finish
from tests.functional.conftest import identical, same_files
from tests.functional.marks import needs_recovery
from tests.lab import disks
from tests.lab.glance import Glance
from tests.lab.ironic import Ironic
from tests.lab.machines import (
    AND_BACK,
    RECORDED,
    THERE,
    Machine,
    Storage,
    recording,
    wait_until,
)
from tests.lab.releases import RELEASES

Deploy = Callable[..., Machine]


@pytest.fixture(scope="module")
def ironic(glance: Glance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironic]:
    where = tmp_path_factory.mktemp("ironic")
    with recording(), Ironic(where, glance.url, extra_config=RECORDED) as server:
        yield server


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[Storage]:
    with Storage(tmp_path / "storage") as server:
        yield server


@pytest.fixture
def deploy(
    ironic: Ironic, storage: Storage, small_disk: disks.Disk, request: pytest.FixtureRequest
) -> Deploy:
    """Return a function that makes machines, named after the test and with what it adds."""
    base = request.node.name.replace("_", "-")[5:50]

    def deploy(suffix: str = "") -> Machine:
        return Machine(ironic, storage, small_disk, base + suffix)

    return deploy


@pytest.fixture
def machine(deploy: Deploy) -> Machine:
    return deploy()


def image(glance: Glance) -> str:
    made: str = glance.connection().image.create_image(name="of a node", allow_duplicates=True).id
    return made


def json_of(command: "subprocess.Popen[str]") -> dict[str, Any]:
    outcome = finish(command)
    assert outcome.code == 0, outcome.err
    return outcome.json


def sha512(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def test_an_active_node_is_active_again_and_its_image_in_glance(
    machine: Machine, storage: Storage, glance: Glance, small_disk: disks.Disk,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    ref = image(glance)
    command = machine.snapshot("--image", ref, "-f", "json")
    with machine.ramdisk():
        result = json_of(command)
    after = machine.node.record()
    assert (after.provision_state, after.power_state, after.reservation) == (
        "active", "power on", None,
    )  # fmt: skip
    stored = glance.connection().image.get_image(ref)
    assert (stored.status, stored.hash_value) == ("active", result["sha512"])
    assert same_files(small_disk, glance.images / ref, tmp_path)
    assert (result["node"], result["state"], result["consistency"], result["warnings"]) == (
        machine.node.uuid, "active", "clean", [],
    )  # fmt: skip
    assert storage.names() == []
    assert machine.hardware() == [*THERE, *AND_BACK]
    assert machine.powers()[0] == "soft power off"
    assert {spoken(new) for _old, new in machine.changes()} == {
        "snapshotting", "snapshot wait", "active",
    }  # fmt: skip


def test_a_node_that_was_off_is_off_again_and_its_image_is_made_for_it(
    machine: Machine, storage: Storage, glance: Glance, small_disk: disks.Disk
) -> None:
    machine.node.cloud.baremetal.set_node_power_state(machine.node.uuid, "power off", wait=True)
    command = machine.snapshot(
        "--create", "master", "--writer", "dd", "-f", "json", "-c", "image_ref", "-c", "consistency"
    )
    with machine.ramdisk():
        result = json_of(command)
    assert (result.keys(), result["consistency"]) == ({"image_ref", "consistency"}, "clean")
    made = glance.connection().image.get_image(result["image_ref"])
    assert (made.name, made.status, made.visibility) == ("master", "active", "private")
    assert made.properties["snapshot_node"] == machine.node.uuid
    assert identical(small_disk.path, glance.images / made.id)
    assert machine.node.record().power_state == "power off"
    assert storage.names() == []


def test_an_instance_that_is_not_shut_down_is_told_to_be_as_after_a_crash(
    machine: Machine, tmp_path: pathlib.Path
) -> None:
    command = machine.snapshot(
        "--image", "file://%s/image" % tmp_path, "--no-shutdown", "-f", "value",
        "-c", "consistency", "-c", "sha512",
    )  # fmt: skip
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.out.split() == ["crash", sha512(tmp_path / "image")], outcome.err
    assert "soft power off" not in machine.powers()
    assert "The conductor has no plug-in" in outcome.err


def test_two_nodes_at_once_do_not_disturb_each_other(
    deploy: Deploy, storage: Storage, glance: Glance
) -> None:
    machines = [deploy("-a"), deploy("-b")]
    refs = [image(glance) for _machine in machines]
    commands = [
        machine.snapshot("--image", ref, "-f", "json")
        for machine, ref in zip(machines, refs, strict=True)
    ]
    with machines[0].ramdisk(), machines[1].ramdisk():
        results = [json_of(command) for command in commands]
    for machine, ref, result in zip(machines, refs, results, strict=True):
        assert result["node"] == machine.node.uuid
        assert result["sha512"] == sha512(glance.images / ref)
        assert machine.node.record().provision_state == "active"
    assert storage.names() == []


def fail_to_upload(machine: Machine, glance: Glance, *arguments: object) -> str:
    """Take a snapshot while Glance is away; return the name of the image that was kept."""
    command = machine.snapshot(*arguments)
    with machine.ramdisk():
        glance.kill()
        try:
            outcome = finish(command)
        finally:
            glance.start_again()
    assert outcome.code == 1
    assert "UploadFailed: " in outcome.err
    (name,) = re.findall("--resume (\\S+)", outcome.err)
    return str(name)


def test_an_upload_that_failed_is_resumed_without_a_new_capture(
    machine: Machine, storage: Storage, glance: Glance
) -> None:
    ref = image(glance)
    name = fail_to_upload(machine, glance, "--image", ref)
    assert machine.node.record().provision_state == "active"
    assert machine.hardware() == [*THERE, *AND_BACK]
    kept = "%s/%s" % (machine.node.uuid, name)
    assert storage.names() == [machine.node.uuid, kept, kept + ".json"]
    manifest = json.loads((storage.document_root / (kept + ".json")).read_text())
    assert (manifest["node"], manifest["image_ref"], manifest["keep_s"]) == (
        machine.node.uuid, ref, 7 * 24 * 3600,
    )  # fmt: skip
    assert glance.connection().image.get_image(ref).status == "queued"

    result = json_of(machine.snapshot("--image", ref, "--resume", name, "-f", "json"))
    assert result["sha512"] == sha512(glance.images / ref)
    assert storage.names() == []
    assert machine.hardware() == [*THERE, *AND_BACK]


def test_a_runbook_with_the_step_takes_a_snapshot(
    machine: Machine, storage: Storage, ironic: Ironic
) -> None:
    name, node = "CUSTOM_SNAPSHOT", machine.node.uuid
    # As the documentation shows it.
    steps = '[{"interface": "deploy", "step": "snapshot", "args": {}, "order": 1}]'
    if tuple(map(int, RELEASES.api.split("."))) < (1, 112):
        made = [
            ("runbook", "create", "--name", name, "--steps", steps),
            ("runbook", "set", name, "--public", "true"),
        ]
    else:
        made = [
            ("runbook", "create", "--name", name, "--public", "true", "--steps", steps),
            ("runbook", "trait", "add", name, name),
        ]
    used = [("node", "add", "trait", node, name), ("node", "service", node, "--runbook", name)]
    for command in (*made, *used):
        done = ironic.openstack("baremetal", *command)
        assert done.returncode == 0, done.stderr
    with machine.ramdisk():
        machine.node.wait_for("active")
    collection, image, manifest = storage.names()
    assert (collection, manifest) == (node, image + ".json")
    told = json.loads((storage.document_root / manifest).read_text())
    assert told["checksum"]["value"] == sha512(storage.document_root / image)
    assert machine.at_home()


def test_an_encrypted_image_is_read_by_the_holder_of_the_key_alone(
    machine: Machine, storage: Storage, glance: Glance, small_disk: disks.Disk,
    tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    key = tmp_path / "key.pem"
    disks.run("openssl", "genpkey", "-algorithm", "X25519", "-out", key)
    key.chmod(0o600)
    ref = image(glance)
    name = fail_to_upload(machine, glance, "--image", ref, "--encryption-key-file", key)
    stored = (storage.document_root / machine.node.uuid / name).read_bytes()
    assert b"QFI\xfb" not in stored

    outcome = finish(machine.snapshot("--image", ref, "--resume", name))
    assert outcome.code == 1
    assert "InvalidRequest: " in outcome.err
    assert "give the file of its private key" in outcome.err
    assert glance.connection().image.get_image(ref).status == "queued"

    result = json_of(
        machine.snapshot(
            "--image", ref, "--resume", name, "--encryption-key-file", str(key), "-f", "json"
        )
    )
    assert result["sha512"] == sha512(glance.images / ref)
    assert same_files(small_disk, glance.images / ref, tmp_path)
    assert storage.names() == []


def hear(command: "subprocess.Popen[str]", until: str) -> str:
    """Return what the command says up to a line with the words ``until``; it is killed if late."""
    assert command.stderr is not None
    said = ""
    deadline = threading.Timer(120, command.kill)
    deadline.start()
    try:
        while until not in said:
            line = command.stderr.readline()
            assert line, said
            said += line
    finally:
        deadline.cancel()
    return said


@needs_recovery
@pytest.mark.usefixtures("slow_network")
def test_an_interrupt_says_how_to_abort_and_after_an_abort_all_is_as_before(
    machine: Machine, storage: Storage, glance: Glance
) -> None:
    ref = image(glance)
    command = machine.snapshot("--image", ref, "--writer", "dd")
    with machine.ramdisk() as agent:
        hear(command, "stream: ")
        command.send_signal(signal.SIGINT)
        said = hear(command, "--resume")
        assert "goes on (stream)" in said
        assert "openstack baremetal node abort %s" % machine.node.uuid in said
        assert command.poll() is None
        machine.node.provision("abort")
        wait_until("powered off", lambda: machine.powers().count("power off") == 2)
        agent.kill()  # as the power that was cut
        outcome = finish(command)
    assert outcome.code == 1
    assert "ServiceFailed: the snapshot of node" in outcome.err
    assert "it was aborted" in outcome.err
    assert storage.names() == []
    assert glance.connection().image.get_image(ref).status == "queued"
    assert machine.node.record().provision_state == "active"
    assert machine.at_home()


def test_a_second_interrupt_ends_the_command_and_the_node_goes_on(
    machine: Machine, storage: Storage, glance: Glance
) -> None:
    ref = image(glance)
    command = machine.snapshot("--image", ref)
    machine.node.wait_for("service wait")
    command.send_signal(signal.SIGINT)
    said = hear(command, "--resume")
    command.send_signal(signal.SIGINT)
    assert finish(command).code == 130
    name = said.split()[-1]
    with machine.ramdisk():
        machine.node.wait_for("active")
    kept = "%s/%s" % (machine.node.uuid, name)
    assert storage.names() == [machine.node.uuid, kept, kept + ".json"]
    json_of(machine.snapshot("--image", ref, "--resume", name, "-f", "json"))
    assert storage.names() == []
    assert glance.connection().image.get_image(ref).status == "active"


def test_an_ironic_with_passwords_is_asked_with_them(
    storage: Storage, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    where = tmp_path / "ironic"
    with recording(), Ironic(where, auth="http_basic", extra_config=RECORDED) as guarded:
        machine = Machine(guarded, storage, small_disk, "guarded")
        target = "file://%s/image" % tmp_path
        refused = finish(machine.snapshot("--image", target, env={"OS_PASSWORD": "wrong"}))
        assert refused.code == 1
        assert "IronicUnavailable: " in refused.err
        command = machine.snapshot("--image", target, "-f", "json")
        with machine.ramdisk():
            assert json_of(command)["sha512"] == sha512(tmp_path / "image")
    assert storage.names() == []
