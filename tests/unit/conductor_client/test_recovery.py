# SPDX-License-Identifier: Apache-2.0
"""The instance is back after a service, by whatever that takes and no more."""

from collections.abc import Callable

import pytest

from conductor_client import errors, recovery
from conductor_client.node import Node, Record
from tests.unit.conductor_client.fake_ironic import FakeIronic, connect, fault
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


BACK = {"provision_state": "active", "reservation": None}
LOCKED = {"provision_state": "active", "reservation": "conductor-1"}


def test_a_node_that_is_active_needs_nothing(ask: Ask) -> None:
    ironic = FakeIronic()
    assert recovery.bring_back(ask(ironic), ours, finishing=False).provision_state == "active"
    assert ironic.asked == []


def test_a_failed_service_is_aborted_and_the_abort_waited_for(ask: Ask) -> None:
    ironic = FakeIronic(provision_state="service failed", on_abort=[LOCKED, LOCKED, BACK])
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
        ironic.node["provision_state"] = "service failed"
        ironic.refusals[("PUT", "states/provision")] = [refusal]

    ironic.on_abort = [refuse_from_now_on]
    with pytest.raises(errors.ServiceFailed, match="take the snapshot again"):
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
