# SPDX-License-Identifier: Apache-2.0
"""A snapshot through Ironic that fails: whatever the reason, the instance is back in the end."""

import pathlib
import re
from collections.abc import Callable, Iterator
from concurrent import futures

import pytest

from conductor_client import errors, sdk
from conductor_client.ramdisk_step import step
from conductor_client.states import spoken
from snapshot_core.progress import Progress
from tests.functional.commands import Outcome, finish
from tests.functional.marks import lacks_recovery, needs_recovery, needs_timeout
from tests.lab import disks
from tests.lab.ironic import Ironic
from tests.lab.machines import RECORDED, Machine, Storage, recording
from tests.lab.releases import RELEASES

# How long Ironic waits for a heartbeat, in seconds, where a test waits for its end: a ramdisk has
# to boot meanwhile, and then sends one every three at most.
IMPATIENT = RECORDED + "[conductor]\nservice_callback_timeout = 30\n"


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironic]:
    with recording(), Ironic(tmp_path_factory.mktemp("ironic"), extra_config=RECORDED) as server:
        yield server


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironic]:
    with recording(), Ironic(tmp_path_factory.mktemp("ironic"), extra_config=IMPATIENT) as server:
        yield server


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[Storage]:
    with Storage(tmp_path / "storage") as server:
        yield server


Deploy = Callable[[Ironic, str], Machine]


@pytest.fixture
def deploy(storage: Storage, small_disk: disks.Disk, request: pytest.FixtureRequest) -> Deploy:
    """Return a function that makes machines, named after the test and with what it adds."""
    base = request.node.name.replace("_", "-")[5:50]
    return lambda where, suffix: Machine(where, storage, small_disk, base + suffix)


@pytest.fixture
def machine(ironic: Ironic, deploy: Deploy) -> Machine:
    return deploy(ironic, "")


@pytest.fixture
def target(tmp_path: pathlib.Path) -> Iterator[str]:
    """The reference of a file for the image, which no failure leaves behind."""
    yield "file://%s/image" % tmp_path
    assert not (tmp_path / "image.part").exists()


Take = Callable[..., sdk.NodeSnapshot]


@pytest.fixture
def take(machine: Machine, storage: Storage, target: str) -> Take:
    """Return a function that takes a snapshot of the machine by Python."""
    access = sdk.StorageAccess.of(
        storage.url, str(storage.account("conductor")), str(storage.cacert)
    )

    def take(**options: object) -> sdk.NodeSnapshot:
        return sdk.snapshot_node(
            machine.node.cloud, machine.node.uuid, image=target, storage=access,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    return take


def refusal(machine: Machine, *arguments: object) -> Outcome:
    """Run the command to its bad end."""
    outcome = finish(machine.snapshot(*arguments))
    assert (outcome.code, outcome.out) == (1, ""), outcome.err
    assert "Traceback" not in outcome.err
    return outcome


def assert_back(machine: Machine, storage: Storage) -> None:
    after = machine.node.record()
    assert (after.provision_state, after.is_maintenance, after.reservation) == (
        "active", False, None,
    )  # fmt: skip
    assert machine.at_home()
    assert storage.names() == []


@needs_recovery
def test_a_step_that_fails_is_told_in_its_own_words_and_the_instance_is_back(
    machine: Machine, storage: Storage, target: str
) -> None:
    command = machine.snapshot("--image", target, "--expected-serial", "OTHER")
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.code == 1
    assert re.search("CommandFailed: the agent reports DeviceNotFound: .*OTHER", outcome.err)
    assert ("service wait", "service failed") in machine.changes()
    assert_back(machine, storage)


@lacks_recovery
def test_where_a_failure_cannot_be_aborted_that_is_said_and_another_snapshot_leads_out_of_it(
    machine: Machine, storage: Storage, target: str
) -> None:
    command = machine.snapshot("--image", target, "--expected-serial", "OTHER")
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.code == 1
    assert re.search("CommandFailed: the agent reports DeviceNotFound: .*OTHER", outcome.err)
    assert "is service failed, which this Ironic cannot abort" in outcome.err
    assert machine.node.record().provision_state == "service failed"
    assert not machine.at_home()
    assert storage.names() == []

    # Ironic 26.1 takes the step that failed, which it still has, for one that the new ramdisk did.
    command = machine.snapshot("--image", target, "-f", "json")
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.code == 1
    assert "ended in the state active without an image" in outcome.err
    assert_back(machine, storage)

    command = machine.snapshot("--image", target, "-f", "json")
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.code == 0, outcome.err
    assert_back(machine, storage)


def test_a_ramdisk_without_the_step_is_named_as_the_reason(
    machine: Machine, storage: Storage, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conductor_client.ramdisk_step.STEP", "no_such_step")
    with futures.ThreadPoolExecutor(1) as pool:
        taking = pool.submit(take)
        with machine.ramdisk(), pytest.raises(errors.ServiceFailed) as caught:
            taking.result()
    assert "the ramdisk was built without ipa-snapshot" in str(caught.value)
    assert ("servicing", "service failed") in machine.changes()
    assert storage.names() == []
    if RELEASES.recovers:
        assert_back(machine, storage)


# Where the node is by then depends on how long Ironic takes to boot its ramdisk.
TOO_LONG = "was not done within 3 s and is snapshot(ting| wait)"


@needs_recovery
def test_a_snapshot_that_takes_too_long_is_aborted(
    machine: Machine, storage: Storage, take: Take
) -> None:
    with pytest.raises(errors.ServiceFailed, match=TOO_LONG):
        take(handling=sdk.Handling(timeout_s=3))
    assert_back(machine, storage)


def test_the_snapshot_of_somebody_who_was_quicker_goes_on(
    machine: Machine, storage: Storage, take: Take
) -> None:
    def be_quicker(progress: Progress) -> None:
        if progress.phase == "boot":
            machine.node.start_service(step("theirs", sdk.CaptureOptions()))
            machine.node.wait_for("service wait")

    with pytest.raises(errors.NodeNotReady, match="Ironic refuses: "):
        take(on_progress=be_quicker)
    with machine.ramdisk():
        machine.node.wait_for("active")
    theirs = machine.node.uuid + "/theirs"
    assert storage.names() == [machine.node.uuid, theirs, theirs + ".json"]
    assert machine.at_home()


@needs_recovery
def test_an_abort_while_the_ramdisk_is_awaited_is_told_and_the_instance_is_back(
    machine: Machine, storage: Storage, target: str
) -> None:
    command = machine.snapshot("--image", target)
    machine.node.wait_for("service wait")
    machine.node.provision("abort")
    outcome = finish(command)
    assert outcome.code == 1
    assert "it was aborted" in outcome.err
    assert_back(machine, storage)


def take_until_the_ramdisk_dies(machine: Machine, *arguments: object) -> Outcome:
    """Run the command; in the middle of the step the machine's power fails."""
    command = machine.snapshot(*arguments, "--writer", "dd")
    with machine.ramdisk() as agent:
        machine.node.wait_for_step("snapshot")
        agent.kill()
        outcome = finish(command)
    assert outcome.code == 1
    return outcome


@needs_timeout
def test_ramdisks_that_never_come_or_die_are_given_up_by_ironic_and_the_instances_are_back(
    impatient: Ironic, deploy: Deploy, storage: Storage, target: str
) -> None:
    forsaken, dying = deploy(impatient, "-forsaken"), deploy(impatient, "-dying")
    command = forsaken.snapshot("--image", target)
    outcomes = [take_until_the_ramdisk_dies(dying, "--image", target), finish(command)]
    for machine, outcome in zip((dying, forsaken), outcomes, strict=True):
        assert "ServiceFailed: " in outcome.err
        assert "the ramdisk did not report to Ironic in time" in outcome.err
        assert ("service wait", "service failed") in machine.changes()
        assert_back(machine, storage)


@needs_timeout
def test_a_failed_node_is_left_for_a_look_and_a_second_try_takes_what_blocks_it_away(
    impatient: Ironic, deploy: Deploy, storage: Storage, target: str
) -> None:
    machine = deploy(impatient, "")
    take_until_the_ramdisk_dies(machine, "--image", target, "--leave-failed")
    # Ironic sets maintenance first, and then leaves power, network and boot device as they are.
    left = machine.node.record()
    assert (left.provision_state, left.is_maintenance, left.fault) == (
        "service failed", True, "service failure",
    )  # fmt: skip
    assert spoken(left.provision_state) == "snapshot failed"
    assert not machine.at_home()

    command = machine.snapshot("--image", target, "-f", "json")
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.code == 0, outcome.err
    assert outcome.json["consistency"] == "crash"  # nobody knows how the first try found it
    assert ("service failed", "servicing") in machine.changes()
    assert_back(machine, storage)


@needs_recovery
def test_a_node_that_is_deleted_meanwhile_is_not_brought_back(
    machine: Machine, storage: Storage, target: str
) -> None:
    command = machine.snapshot("--image", target)
    machine.node.wait_for("service wait")
    machine.node.provision("deleted")
    outcome = finish(command)
    assert outcome.code == 1
    assert "ServiceFailed: the service of node" in outcome.err
    machine.node.wait_for("available")
    assert storage.names() == []


def test_a_node_in_maintenance_is_refused_before_it_is_touched(
    machine: Machine, storage: Storage, target: str
) -> None:
    machine.node.cloud.baremetal.set_node_maintenance(machine.node.uuid, "its fan is broken")
    outcome = refusal(machine, "--image", target)
    assert "NodeNotReady: " in outcome.err
    assert "its fan is broken" in outcome.err
    assert (machine.changes(), machine.powers(), machine.hardware()) == ([], [], [])
    assert storage.names() == []


def test_an_ironic_that_is_away_for_a_while_is_waited_for(
    machine: Machine, storage: Storage, target: str, ironic: Ironic
) -> None:
    command = machine.snapshot("--image", target)
    machine.node.wait_for("service wait")
    ironic.kill()
    ironic.start_again()
    with machine.ramdisk():
        outcome = finish(command)
    assert outcome.code == 0, outcome.err
    assert_back(machine, storage)
