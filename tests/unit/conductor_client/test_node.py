# SPDX-License-Identifier: Apache-2.0
"""Ironic's API: what it answers, refuses and leaves unanswered."""

from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from conductor_client import errors, node
from conductor_client.node import Node, Record, clear_service_fault
from conductor_client.provision import VERB_VERSION, ServiceStep, Verb
from tests.unit.conductor_client.fake_agent import as_json
from tests.unit.conductor_client.fake_ironic import UUID, FakeIronic, connect, fault
from tests.unit.http_server import Answer, AnsweringServer, Respond

STEP = {"interface": "deploy", "step": "snapshot", "args": {"image_name": "image"}}
Ask = Callable[[FakeIronic], Node]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_OUTAGE_S", 5)
    monkeypatch.setattr(node, "_PAUSE", tenacity.wait_fixed(0.01))


@pytest.fixture
def ask(serve: Callable[[Respond], AnsweringServer]) -> Ask:
    return lambda ironic: Node(connect(serve(ironic).url), "node-1")


def test_a_node_is_read(ask: Ask) -> None:
    record = ask(FakeIronic(reservation="conductor-1", last_error="no\x07ise")).read()
    assert (record.uuid, record.name, record.provision_state, record.power_state) == (
        UUID, "node-1", "active", "power on",
    )  # fmt: skip
    assert not record.free
    assert record.last_error == "no?ise"
    assert record.steps == ()


@pytest.mark.parametrize("broken", [{}, [], {"uuid": UUID}, {"driver_internal_info": 1}])
def test_an_answer_that_is_no_node_is_an_error_of_ironic(ask: Ask, broken: object) -> None:
    ironic = FakeIronic()
    ironic.refusals[("GET", "")] = [as_json(broken)]
    with pytest.raises(errors.IronicUnavailable, match="unusable"):
        ask(ironic).read()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (fault("No", 401), errors.IronicUnavailable, "does not let this account"),
        (fault("No", 403), errors.IronicUnavailable, "does not let this account"),
        (fault("No such node", 404), errors.NodeNotReady, "has no node node-1"),
        (Answer(406, b"", {"X-OpenStack-Ironic-API-Maximum-Version": "1.82"}),
         errors.NodeNotReady, "up to version 1.82, expected 1.87: service steps came with Ironic"),
        (fault("locked by host-1", 409), errors.NodeNotReady, "refuses: locked by host-1"),
        (Answer(400, b"<html>"), errors.NodeNotReady, "refuses: <html>"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_with_what_it_means(
    ask: Ask, answer: Answer, error: type[Exception], message: str
) -> None:
    ironic = FakeIronic()
    ironic.refusals[("GET", "")] = [answer]
    with pytest.raises(error, match=message):
        ask(ironic).read()


def test_an_api_that_is_away_for_a_moment_is_asked_again(ask: Ask) -> None:
    ironic = FakeIronic()
    ironic.refusals[("GET", "")] = [Answer(None), Answer(None), Answer(502), fault("busy", 503)]
    assert ask(ironic).read().uuid == UUID


def test_a_page_of_a_load_balancer_is_no_answer(ask: Ask) -> None:
    ironic = FakeIronic()
    ironic.refusals[("GET", "")] = [Answer(200, b"<html>We are back soon</html>")] * 2
    assert ask(ironic).read().uuid == UUID
    ironic.refusals[("GET", "validate")] = [Answer(200, b"<html>We are back soon</html>")]
    with pytest.raises(errors.IronicUnavailable, match="is no JSON: <html>We are back"):
        ask(ironic).invalid_interfaces()


def test_an_api_that_stays_away_is_given_up(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_OUTAGE_S", 0.1)
    ironic = FakeIronic()
    ironic.refusals[("GET", "")] = [Answer(502)] * 1000
    with pytest.raises(errors.IronicUnavailable, match="Ironic answers 502") as caught:
        ask(ironic).read()
    assert caught.value.word == "IronicUnavailable"


def test_a_service_is_asked_for_once_with_its_step(ask: Ask) -> None:
    ironic = FakeIronic()
    ask(ironic).provision(ServiceStep(STEP))
    assert (ironic.asked, ironic.services) == (["service"], [STEP])


@pytest.mark.parametrize("began", [True, False])
def test_when_the_answer_is_lost_the_node_tells_whether_the_service_began(
    ask: Ask, began: bool
) -> None:
    ironic = FakeIronic()
    ironic.refusals[("PUT", "states/provision")] = [Answer(504)]
    if began:
        ironic.node.update(
            provision_state="servicing", driver_internal_info={"service_steps": [STEP]}
        )
        ask(ironic).provision(ServiceStep(STEP))
    else:
        with pytest.raises(errors.IronicUnavailable):
            ask(ironic).provision(ServiceStep(STEP))
    assert ironic.asked == []


@pytest.mark.parametrize(
    ("fields", "has"),
    [
        ({"snapshot_interface": "agent"}, True),
        ({"snapshot_interface": "no-snapshot"}, False),
        ({}, False),
    ],
)
def test_a_node_has_an_interface_if_one_is_chosen(
    ask: Ask, fields: dict[str, str], has: bool
) -> None:
    assert ask(FakeIronic(**fields)).has_interface("snapshot", VERB_VERSION) is has


@pytest.mark.parametrize(
    ("told", "has"),
    [({"result": True}, True), ({"result": False, "reason": "none"}, False), (None, False)],
)
def test_a_node_that_is_older_than_the_interface_has_its_driver_s_default(
    ask: Ask, told: object, has: bool
) -> None:
    ironic = FakeIronic(snapshot_interface=None)
    ironic.validation["snapshot"] = told
    assert ask(ironic).has_interface("snapshot", VERB_VERSION) is has


def test_up_to_which_version_the_api_goes_can_be_asked(ask: Ask) -> None:
    ironic = FakeIronic()
    ironic.minor = 99
    assert (ask(ironic).knows_version("1.99"), ask(ironic).knows_version("1.100")) == (True, False)


@pytest.mark.parametrize("answer", [fault("no such field"), Answer(406)])
def test_an_ironic_that_does_not_know_an_interface_has_none(ask: Ask, answer: Answer) -> None:
    ironic = FakeIronic(snapshot_interface="agent")
    ironic.refusals[("GET", "")] = [answer]
    assert not ask(ironic).has_interface("snapshot", VERB_VERSION)


@pytest.mark.parametrize(
    ("node_is", "ours"),
    [
        ({"driver_internal_info": {"snapshot_image_ref": "an image"}}, True),
        ({"driver_internal_info": {"snapshot_image_ref": "another"}}, False),
        ({"provision_state": "snapshot failed"}, True),
        ({"provision_state": "servicing"}, False),
    ],
)
def test_a_snapshot_by_the_verb_is_known_by_its_image(node_is: dict[str, Any], ours: bool) -> None:
    fields = {**FakeIronic(provision_state="snapshotting").node, **node_is}
    assert Verb("an image").may_be_in(Record.parse(fields)) is ours


def test_a_service_of_somebody_else_is_not_taken_for_ours(ask: Ask) -> None:
    other = {**STEP, "args": {"image_name": "other"}}
    ironic = FakeIronic(
        provision_state="servicing", driver_internal_info={"service_steps": [other]}
    )
    ironic.refusals[("PUT", "states/provision")] = [Answer(504)]
    with pytest.raises(errors.IronicUnavailable):
        ask(ironic).provision(ServiceStep(STEP))


def test_what_is_wrong_with_power_and_network_is_told_and_nothing_else(ask: Ask) -> None:
    ironic = FakeIronic()
    ironic.validation = {
        "power": {"result": False, "reason": "no address"}, "network": {"result": None},
        "deploy": {"result": False, "reason": "the old image is gone"},
    }  # fmt: skip
    assert ask(ironic).invalid_interfaces() == ["power: no address"]


def test_only_the_maintenance_of_a_failed_service_is_cleared(ask: Ask) -> None:
    ironic = FakeIronic(maintenance=True, fault="service failure")
    clear_service_fault(ask(ironic), Record.parse(ironic.node))
    assert ironic.asked == ["clear maintenance"]
    for reason in (None, "power failure"):
        ironic = FakeIronic(maintenance=True, fault=reason, maintenance_reason="a broken fan")
        with pytest.raises(errors.NodeNotReady, match="a broken fan"):
            clear_service_fault(ask(ironic), Record.parse(ironic.node))
        assert ironic.asked == []
