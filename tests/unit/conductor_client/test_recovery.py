# SPDX-License-Identifier: Apache-2.0
"""The instance is back after a service, by whatever that takes and no more."""

from collections.abc import Callable
from typing import Any

import pytest

from conductor_client import errors, recovery
from conductor_client.node import Node, Record
from tests.unit.conductor_client.fake_ironic import UUID, FakeIronic, connect, fault
from tests.unit.http_server import Answer, AnsweringServer, Respond

Ask = Callable[[FakeIronic], Node]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_POLL_S", 0.005)
    monkeypatch.setattr(recovery, "_PATIENCE_S", 5)
    monkeypatch.setattr(recovery, "_SLACK_S", 0.2)


@pytest.fixture
def ask(serve: Callable[[Respond], AnsweringServer]) -> Ask:
    return lambda ironic: Node(connect(serve(ironic).url), "node-1")


def ours(_record: Record) -> bool:
    return True


IN_RAMDISK = {"provision_state": "service failed", "service_step": {"step": "snapshot"}}
BACK = {"provision_state": "active", "reservation": None}
LOCKED = {"provision_state": "active", "reservation": "conductor-1"}


def test_a_node_that_is_active_needs_nothing(ask: Ask) -> None:
    ironic = FakeIronic()
    assert recovery.bring_back(ask(ironic), ours, finishing=False).provision_state == "active"
    assert ironic.asked == []


def test_a_failed_service_is_aborted_and_the_abort_waited_for(ask: Ask) -> None:
    ironic = FakeIronic(**IN_RAMDISK, on_abort=[LOCKED, LOCKED, BACK])
    assert recovery.bring_back(ask(ironic), ours, finishing=False).free
    assert ironic.asked == ["abort"]


def test_the_maintenance_of_a_timeout_goes_before_the_abort(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="service failed", maintenance=True, fault="service failure")
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["clear maintenance", "abort"]


def test_a_node_in_maintenance_for_another_reason_is_left(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="service failed", maintenance=True, fault="power failure")
    with pytest.raises(errors.NodeNotReady, match="for another reason"):
        recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == []


def test_a_failed_service_is_left_if_that_is_asked_for(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="service failed", last_error="no tenant network")
    with pytest.raises(errors.ServiceFailed, match=r"service failed \(no tenant network\)"):
        recovery.bring_back(ask(ironic), ours, finishing=True, leave_failed=True)
    assert ironic.asked == []


def test_an_ironic_that_cannot_abort_what_failed_is_asked_once(ask: Ask) -> None:
    # as Ironic before 32.0, which aborts a service that waits, and leaves the node failed
    ironic = FakeIronic(provision_state="service wait")
    refusal = fault(
        'The requested action "abort" can not be performed on node "node-1" while it is in '
        'state "service failed".'
    )

    def refuse_from_now_on() -> None:
        ironic.node.update(IN_RAMDISK)
        ironic.refusals[("PUT", "states/provision")] = [refusal]

    ironic.on_abort = [refuse_from_now_on]
    with pytest.raises(errors.ServiceFailed, match="take the snapshot again"):
        recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["abort"]


def failed_by_plugin(**fields: Any) -> FakeIronic:
    """As the plug-in leaves a node: its instance is back, and boots."""
    said = "Service step vendor.snapshot failed on node %s. CommandFailed: no such disk" % UUID
    step = {"interface": "vendor", "step": "snapshot", "args": {}}
    return FakeIronic(
        **{"provision_state": "service failed", "last_error": said, "service_step": {},
           "driver_internal_info": {"service_steps": [step]}, **fields},
    )  # fmt: skip


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_an_instance_that_the_plug_in_brought_back_keeps_its_power(ask: Ask, refusals: int) -> None:
    ironic = failed_by_plugin()
    ironic.refusals[("PUT", "states/provision")] = [fault("locked", 409)] * refusals
    # The service that leads out of the failed one is not the one that failed.
    is_vendors = lambda record: any(step["step"] == "snapshot" for step in record.steps)  # noqa: E731
    record = recovery.bring_back(ask(ironic), is_vendors, finishing=False)
    assert (record.provision_state, record.power_state) == ("active", "power on")
    assert ironic.asked == ["service without a ramdisk"]


def test_so_does_one_that_it_brought_back_after_a_conductor_died(ask: Ask) -> None:
    ironic = failed_by_plugin(last_error="It was interrupted. The instance is brought back.")
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["service without a ramdisk"]


@pytest.mark.parametrize("minor", [100, 107])
def test_an_ironic_whose_only_way_out_cuts_the_power_shuts_the_instance_down_before(
    ask: Ask, minor: int
) -> None:
    ironic = failed_by_plugin()
    ironic.minor = minor
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["soft power off", "abort"]
    assert ironic.node["power_state"] == "power on"


def test_an_instance_that_runs_is_left_so_by_an_ironic_without_a_way_out(ask: Ask) -> None:
    ironic = failed_by_plugin()
    ironic.minor = 99
    ironic.refusals[("PUT", "states/provision")] = [
        Answer(406), Answer(406), Answer(406), fault('while it is in state "service failed"'),
    ]  # fmt: skip
    with pytest.raises(errors.ServiceFailed, match="cannot abort"):
        recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == []


HIDDEN = "** Value Redacted - Requires permission. **"


@pytest.mark.parametrize(
    "fields",
    [
        # By Ironic itself, after a ramdisk that never reported.
        {"driver_internal_info": {}, "last_error": "Timeout reached"},
        {"driver_internal_info": {"content": HIDDEN}, "last_error": HIDDEN},
        # An agent says what it likes.
        {"last_error": "Service step deploy.snapshot failed on node x. The instance is brought "
         "back.", "driver_internal_info": {"service_steps": [{"interface": "deploy"}]}},
    ],
)  # fmt: skip
def test_an_instance_that_may_run_is_asked_before_an_abort_cuts_its_power(
    ask: Ask, fields: dict[str, Any]
) -> None:
    ironic = failed_by_plugin(**fields)
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["soft power off", "abort"]


@pytest.mark.parametrize(
    "fields",
    [
        {"fault": "service failure", "maintenance": True},
        {"service_step": {"interface": "vendor", "step": "snapshot"}, "last_error": "it died"},
        {"driver_internal_info": {"agent_start_attempted": True}},
        {"power_state": "power off"},
    ],
)
def test_a_ramdisk_is_not_asked(ask: Ask, fields: dict[str, Any]) -> None:
    ironic = failed_by_plugin(**fields)
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked[-1] == "abort"
    assert "soft power off" not in ironic.asked


def test_an_instance_that_could_not_be_brought_back_is_not_taken_for_one_that_runs(
    ask: Ask,
) -> None:
    said = failed_by_plugin().node["last_error"] + ". Also failed to tear down servicing."
    ironic = failed_by_plugin(last_error=said)
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked[-1] == "abort"


def test_a_way_out_that_fails_is_taken_once(ask: Ask) -> None:
    ironic = failed_by_plugin()
    node = ask(ironic)

    def fail() -> None:
        ironic.node.update(IN_RAMDISK, maintenance=True, fault="service failure")

    leave, ironic_provision = [fail], ironic._provision

    def provision(body: dict[str, Any]) -> Answer:
        answer = ironic_provision(body)
        if body.get("disable_ramdisk"):
            ironic._coming = list(leave)
        return answer

    ironic._provision = provision  # type: ignore[method-assign]
    recovery.bring_back(node, ours, finishing=False)
    assert ironic.asked == ["service without a ramdisk", "clear maintenance", "abort"]


def test_an_abort_by_the_verb_leaves_the_power_alone(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="snapshot failed")
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["abort"]


def test_an_abort_that_is_refused_is_asked_for_again(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="service wait")
    ironic.refusals[("PUT", "states/provision")] = [fault("locked", 409), fault("not now", 400)]
    recovery.bring_back(ask(ironic), ours, finishing=False)
    assert ironic.asked == ["abort"]


@pytest.mark.parametrize("state", ["servicing", "service wait", "service hold", "service failed"])
def test_the_service_of_somebody_else_is_left(ask: Ask, state: str) -> None:
    ironic = FakeIronic(provision_state=state, maintenance=True, fault="service failure")
    record = recovery.bring_back(ask(ironic), lambda record: False, finishing=False)
    recovery.restore_power(ask(ironic), record, was_off=True, shutdown_timeout_s=1)
    assert ironic.asked == []


def test_a_service_that_is_about_to_end_is_not_aborted(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="service wait")
    ironic._coming = [{}, {}, {"provision_state": "servicing"}, {}, BACK]
    recovery.bring_back(ask(ironic), ours, finishing=True)
    assert ironic.asked == []


def test_a_service_that_should_have_ended_long_ago_is_aborted(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_NOTICE_S", 0.05)
    ironic = FakeIronic(provision_state="service wait")
    recovery.bring_back(ask(ironic), ours, finishing=True)
    assert ironic.asked == ["abort"]


@pytest.mark.parametrize("state", ["deleting", "available", "cleaning"])
def test_a_node_that_is_deleted_is_let_go(ask: Ask, state: str) -> None:
    ironic = FakeIronic(provision_state=state)
    record = recovery.bring_back(ask(ironic), ours, finishing=False)
    recovery.restore_power(ask(ironic), record, was_off=True, shutdown_timeout_s=1)
    assert ironic.asked == []


def test_a_node_that_does_not_come_back_is_told_with_what_to_do(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_PATIENCE_S", 0.05)
    with pytest.raises(errors.ServiceFailed, match="bring it back by hand, with 'openstack"):
        recovery.bring_back(ask(FakeIronic(provision_state="servicing")), ours, finishing=False)


# Power


def restore(ask: Ask, ironic: FakeIronic, *, was_off: bool) -> None:
    node = ask(ironic)
    recovery.restore_power(node, node.read(), was_off=was_off, shutdown_timeout_s=1)


def test_power_that_is_as_before_is_left(ask: Ask) -> None:
    ironic = FakeIronic()
    restore(ask, ironic, was_off=False)
    assert ironic.asked == []


def test_a_node_that_was_on_is_on_again(ask: Ask) -> None:
    ironic = FakeIronic(power_state="power off")
    restore(ask, ironic, was_off=False)
    assert ironic.asked == ["power on"]


def test_a_node_that_was_off_is_shut_down_and_if_it_does_not_listen_cut_off(ask: Ask) -> None:
    ironic = FakeIronic()
    restore(ask, ironic, was_off=True)
    assert ironic.asked == ["soft power off"]
    ironic = FakeIronic()
    ironic.refusals[("PUT", "states/power")] = [fault("does not support soft power off")]
    restore(ask, ironic, was_off=True)
    assert ironic.asked == ["power off"]


def test_a_shutdown_that_does_not_end_is_given_up(ask: Ask) -> None:
    ironic = FakeIronic(reservation="conductor-1", target_power_state="power off")
    ironic.refusals[("PUT", "states/power")] = [Answer(202)]
    assert recovery.shut_down(ask(ironic), 0) is False


def test_a_shutdown_that_ironic_says_failed_is_not_waited_for(ask: Ask) -> None:
    ironic = FakeIronic(last_error="the instance ignores ACPI")
    ironic.refusals[("PUT", "states/power")] = [Answer(202)]
    assert recovery.shut_down(ask(ironic), 3600) is False


def test_a_shutdown_that_ironic_does_not_take_has_changed_nothing(ask: Ask) -> None:
    ironic = FakeIronic()
    ironic.refusals[("PUT", "states/power")] = [fault("locked by conductor-1", 409)]
    assert recovery.shut_down(ask(ironic), 3600) is None
