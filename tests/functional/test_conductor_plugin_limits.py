# SPDX-License-Identifier: Apache-2.0
"""How long the plug-in keeps an image, and how many machines and uploads it has at once."""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator

import pytest

from conductor_client.ironic.record import STOP_PATIENCE_S
from tests.functional.conftest import same_files
from tests.lab import conductors, disks
from tests.lab.conductors import Backends
from tests.lab.ironic import Ironic
from tests.lab.machines import wait_until
from tests.lab.nodes import Node, Record

IronicWith = Callable[..., Ironic]


@pytest.fixture(scope="module")
def module_backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with conductors.backends(tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture
def backends(module_backends: Backends) -> Iterator[Backends]:
    """A storage and a Glance, whose gate is open and has counted nothing."""
    module_backends.gate.forget()
    yield module_backends
    module_backends.gate.open()


@pytest.fixture
def ironic_with(tmp_path: pathlib.Path, backends: Backends) -> Iterator[IronicWith]:
    """Return a function that starts an Ironic with these options in its section [snapshot]."""
    with contextlib.ExitStack() as running:

        def start(**options: object) -> Ironic:
            return running.enter_context(
                Ironic(
                    tmp_path / "ironic", backends.gate.url,
                    extra_config=backends.config(**options),
                )
            )  # fmt: skip

        yield start


def failed(node: Node) -> Record:
    record = node.wait_for("service failed", timeout_s=90)
    assert (record.power_state, record.is_maintenance) == ("power on", False)
    return record


def fail_to_upload(node: Node, image: str, disk: disks.Disk, backends: Backends) -> Record:
    """Take a snapshot of the node, whose image Glance does not take; return the failed node."""
    backends.gate.refusing = True
    conductors.request(node, "snapshot", image)
    with conductors.ramdisk(node, disk):
        record = failed(node)
    backends.gate.refusing = False
    assert "UploadFailed" in record.last_error
    return record


def test_an_image_that_glance_did_not_take_is_uploaded_later_without_another_capture(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    node, image = conductors.enrol(ironic_with(retention=600)), backends.new_image()
    error = fail_to_upload(node, image, small_disk, backends).last_error
    assert re.search(r"is kept for (600|59\d) s", error)
    stored = backends.names(node)
    assert len(stored) == 2
    # There is no ramdisk any more that could capture anything.
    conductors.request(node, "upload_snapshot", image)
    node.wait_for("active")
    assert same_files(small_disk, backends.glance.images / image, tmp_path)
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []


def test_an_image_that_is_kept_goes_when_its_node_is_another_tenant_s(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk
) -> None:
    node, image = conductors.enrol(ironic_with(retention=600)), backends.new_image()
    fail_to_upload(node, image, small_disk, backends)
    assert len(backends.names(node)) == 2
    node.cloud.baremetal.update_node(node.uuid, lessee="another-project")
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []


def test_an_image_is_encrypted_in_the_storage_and_not_in_glance(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    key = tmp_path / "key.pem"
    disks.run("openssl", "genpkey", "-algorithm", "X25519", "-out", key)
    key.chmod(0o600)
    ironic = ironic_with(retention=600, encryption_key_file=key)
    node, image = conductors.enrol(ironic), backends.new_image()
    fail_to_upload(node, image, small_disk, backends)
    (name,) = [name for name in backends.names(node) if name.endswith(".qcow2")]
    assert b"QFI\xfb" not in (backends.storage.document_root / name).read_bytes()
    conductors.request(node, "upload_snapshot", image)
    node.wait_for("active")
    assert same_files(small_disk, backends.glance.images / image, tmp_path)


def test_an_image_is_kept_if_its_next_upload_is_aborted(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk
) -> None:
    node, image = conductors.enrol(ironic_with(retention=600)), backends.new_image()
    fail_to_upload(node, image, small_disk, backends)
    backends.gate.holding = True
    conductors.request(node, "upload_snapshot", image)
    wait_until("an upload under way", lambda: backends.gate.uploads)
    node.abort()
    conductors.wait_for_phase(node, "kept")
    assert len(backends.names(node)) == 2
    backends.gate.open()
    image = backends.new_image()
    conductors.request(node, "upload_snapshot", image)
    node.wait_for("active")
    assert backends.status(image) == "active"


def test_an_image_is_kept_if_the_conductor_has_no_room_to_work(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk
) -> None:
    node = conductors.enrol(ironic_with(work_dir="/proc/none"))
    conductors.request(node, "snapshot", backends.new_image())
    with conductors.ramdisk(node, small_disk):
        record = failed(node)
    assert "/proc/none/conductor-lab-conductor cannot be used" in record.last_error
    assert "is kept for" in record.last_error
    assert len(backends.names(node)) == 2


def test_a_record_that_cannot_be_read_fails_its_snapshot_and_holds_up_no_other(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    ironic = ironic_with()
    spoilt, other = (conductors.enrol(ironic) for _ in range(2))
    conductors.request(spoilt, "snapshot", backends.new_image(), writer="dd")
    with conductors.slowed_network(), conductors.ramdisk(spoilt, small_disk):
        conductors.wait_for_phase(spoilt, "capturing")
        ironic.kill()
        conductors.spoil_record(ironic, spoilt)
        ironic.start_again()
        assert "is of another version of ipa-snapshot" in failed(spoilt).last_error
    image = backends.new_image()
    conductors.request(other, "snapshot", image)
    with conductors.ramdisk(other, small_disk):
        other.wait_for("active", timeout_s=120)
    for node in (spoilt, other):
        conductors.wait_until_forgotten(node)
    assert same_files(small_disk, backends.glance.images / image, tmp_path)


@pytest.mark.parametrize("retention", [4, 0])
def test_an_image_that_glance_did_not_take_goes_after_its_time(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk, retention: int
) -> None:
    node, image = conductors.enrol(ironic_with(retention=retention)), backends.new_image()
    error = fail_to_upload(node, image, small_disk, backends).last_error
    is_kept = re.search("is kept for [1-4] s: the step upload_snapshot", error) is not None
    assert is_kept == (retention > 0)
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []
    conductors.request(node, "upload_snapshot", image)
    assert "no captured image of node %s was kept" % node.uuid in failed(node).last_error
    assert backends.status(image) == "queued"
    assert backends.gate.uploads == []


def test_an_agent_is_asked_to_stop_however_seldom_is_cleaned_up(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk
) -> None:
    # More than an agent is given to stop.
    node = conductors.enrol(ironic_with(clean_up_interval=STOP_PATIENCE_S + 2))
    conductors.request(node, "snapshot", backends.new_image(), writer="dd")
    # The fake power leaves the agent alive, as a BMC does that lies.
    with conductors.slowed_network(), conductors.ramdisk(node, small_disk) as agent:
        conductors.wait_for_phase(node, "capturing")
        node.abort()
        conductors.wait_until_forgotten(node)
        assert "is not wanted any more" in agent.log.read_text(errors="replace")
    assert backends.names(node) == []


def test_one_upload_at_a_time_is_under_way_if_more_are_not_wanted(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    ironic, gate = ironic_with(max_concurrent_uploads=1), backends.gate
    nodes = {backends.new_image(): conductors.enrol(ironic) for _ in range(2)}
    gate.holding = True
    for image, node in nodes.items():
        conductors.request(node, "snapshot", image)
    with contextlib.ExitStack() as ramdisks:
        for node in nodes.values():
            ramdisks.enter_context(conductors.ramdisk(node, small_disk))
        for node in nodes.values():
            conductors.wait_for_phase(node, "uploading")
    wait_until("an upload under way", lambda: gate.uploads)
    waiting = nodes[next(image for image in nodes if image != gate.uploads[0].image)]
    conductors.wait_for_looks(waiting)
    assert [upload.under_way for upload in gate.uploads] == [True]
    gate.open()
    for image, node in nodes.items():
        node.wait_for("active", timeout_s=120)
        assert same_files(small_disk, backends.glance.images / image, tmp_path)
    assert (len(gate.uploads), gate.most_at_once) == (2, 1)


def test_one_machine_at_a_time_is_captured_if_more_are_not_wanted(
    ironic_with: IronicWith, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    ironic = ironic_with(max_concurrent_snapshots=1)
    nodes = {backends.new_image(): conductors.enrol(ironic) for _ in range(2)}
    for image, node in nodes.items():
        conductors.request(node, "snapshot", image)
    looks = conductors.Looks(ironic)
    with contextlib.ExitStack() as ramdisks:
        with conductors.slowed_network():
            for node in nodes.values():
                ramdisks.enter_context(conductors.ramdisk(node, small_disk))
            looks.go_on_until("capturing", "requested")
        looks.go_on_until()
    for image, node in nodes.items():
        node.wait_for("active", timeout_s=120)
        assert same_files(small_disk, backends.glance.images / image, tmp_path)
    assert looks.most_captures == 1
