# SPDX-License-Identifier: Apache-2.0
"""The real agent logs every command's arguments; the storage's password is not among them."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ironic_python_agent import errors as agent_errors

from ipa_snapshot import errors
from ipa_snapshot.extension.secrecy import HiddenAuth, hide_credentials, refuse_exposed_credentials
from tests.unit.ipa_snapshot.devices.agent_hardware import ListedHardwareManager, agent_with
from tests.unit.ipa_snapshot.devices.root_device_cases import SDA
from tests.unit.ipa_snapshot.extension.agent import AgentWithoutMachine

COMMAND = "snapshot.stream_image"
AUTHS: list[Any] = [
    {"username": "anna", "password": "s3cret"},
    {"token": "s3cret"},
    {"username": "anna", "password": "s3cret\n"},
    {"username": "anna", "password": "s3cret", "more": 1},
    {"configdrive": "s3cret"},
    ["s3cret"],
    "s3cret",
]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    return {"url": "file://%s" % tmp_path, "image_name": "image"}


def _everything_logged(log: pytest.LogCaptureFixture) -> str:
    formatter = logging.Formatter("%(message)s %(args)r")
    return "\n".join(formatter.format(record) for record in log.records)


@pytest.mark.parametrize("auth", AUTHS)
def test_the_password_is_in_no_record_and_in_no_result(
    log: pytest.LogCaptureFixture, arguments: dict[str, Any], auth: object
) -> None:
    agent = AgentWithoutMachine()
    with agent_with([], None):  # the command fails, as there is no disk
        try:
            result = agent.execute_command(COMMAND, **arguments, auth=auth)
        except agent_errors.InvalidContentError as exc:
            shown = str(exc)
        else:
            result.join()
            assert result.command_status == "FAILED"
            shown = "%s %r %s" % (result, result.command_params, result.serialize())
    assert "Executing command: snapshot.stream_image with args" in log.text
    assert "s3cret" not in _everything_logged(log)
    assert "s3cret" not in shown


def test_an_extension_that_is_loaded_again_hides_as_the_first_did(
    log: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    agent = AgentWithoutMachine()
    hide_credentials(agent)
    with agent_with([], None):
        result = agent.execute_command(COMMAND, **arguments, auth=AUTHS[0])
        result.join()
    assert result.command_status == "FAILED"  # as there is no disk
    assert "s3cret" not in _everything_logged(log)


def test_the_password_is_not_logged_when_a_second_command_comes_meanwhile(
    log: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    agent, go_on = AgentWithoutMachine(), threading.Event()

    class Slow(ListedHardwareManager):
        def get_os_install_device(self, permit_refresh: bool = False) -> str:
            assert go_on.wait(30)
            return "/dev/none"

    with agent_with([SDA], None) as manager:
        manager.__class__ = Slow
        first = agent.execute_command(COMMAND, **arguments, auth=AUTHS[0])
        try:
            with pytest.raises(agent_errors.AgentIsBusy):
                agent.execute_command(COMMAND, **arguments, auth=AUTHS[1])
            shown = str(list(agent.command_results.values())[-1])
        finally:
            go_on.set()
            first.join()
    assert "agent is still executing" in log.text
    assert "s3cret" not in _everything_logged(log)
    assert "<hidden>" in shown and "s3cret" not in shown


def test_without_credentials_a_command_s_arguments_are_as_they_were(
    arguments: dict[str, Any],
) -> None:
    agent = AgentWithoutMachine()
    with agent_with([], None):
        result = agent.execute_command(COMMAND, **arguments).join()
    assert result.command_params == arguments


def test_other_commands_are_left_alone(log: pytest.LogCaptureFixture) -> None:
    agent = AgentWithoutMachine()
    with pytest.raises(agent_errors.RequestedObjectNotFoundError):
        agent.execute_command("image.install", auth={"token": "theirs"})
    assert "theirs" in log.text


def test_what_is_hidden_can_be_parsed_and_does_not_print_itself() -> None:
    hidden = HiddenAuth(AUTHS[0])
    assert hidden.parse().to_wire() == AUTHS[0]
    for shown in (repr(hidden), str(hidden), "%s" % {"auth": hidden}, f"{hidden}"):
        assert "s3cret" not in shown and "<hidden>" in shown


@pytest.mark.parametrize("auth", AUTHS[:2])
def test_credentials_that_came_another_way_are_refused(
    arguments: dict[str, Any], auth: object
) -> None:
    with pytest.raises(errors.InvalidRequest, match="change the password") as caught:
        refuse_exposed_credentials(auth)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(agent_errors.InvalidContentError, match="did not hide the credentials"):
        AgentWithoutMachine().extension.execute("stream_image", **arguments, auth=auth)


def test_no_credentials_and_hidden_ones_are_not_refused() -> None:
    refuse_exposed_credentials(None)
    refuse_exposed_credentials(HiddenAuth(AUTHS[0]))


def test_an_extension_that_is_only_looked_at_has_no_agent() -> None:
    hide_credentials(None)
