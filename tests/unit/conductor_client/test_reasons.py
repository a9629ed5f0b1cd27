# SPDX-License-Identifier: Apache-2.0
"""What Ironic writes on a node that failed, and what is made of it."""

import pytest

from conductor_client import errors
from conductor_client.node import Record
from conductor_client.reasons import why_failed
from tests.unit.conductor_client.fake_ironic import FakeIronic

# These are what Ironic 39.0.0, or 26.1.1 with the agent 13.0.0, wrote.
NO_STEP = (
    "Node failed to start the first service step: node does not support this service step: "
    "{'interface': 'deploy', 'step': 'snapshot', 'args': {'image_name': 'x'}}"
)
TOO_OLD = (
    "Node failed to start the first service step: service step {'interface': 'deploy', 'step': "
    "'snapshot', 'args': {'compression': 'zstd'}} has these unexpected arguments: compression"
)
NO_TOKEN = "Node failed to check service progress: 'commands'"
TIMEOUT = (
    "Timeout reached while servicing the node. Please check if the ramdisk responsible for the "
    "servicing is running on the node. Failed on step {}."
)
ABORTED = "By request, the service operation was aborted during or after the completion of step"


def why(last_error: str | None, state: str = "service failed") -> errors.SnapshotError:
    node = FakeIronic(last_error=last_error, provision_state=state).node
    return why_failed(Record.parse(node))


def test_an_error_of_the_step_keeps_its_word_and_its_message() -> None:
    error = why(
        "Service step deploy.snapshot failed on node 6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59. "
        "DeviceNotFound: no disk has the serial SN: see the list.\nIt has others"
    )
    assert isinstance(error, errors.CommandFailed)
    assert error.agent_word == "DeviceNotFound"
    assert str(error).endswith("no disk has the serial SN: see the list.\nIt has others")


@pytest.mark.parametrize(
    ("last_error", "meaning"),
    [
        (NO_STEP, "the ramdisk was built without ipa-snapshot"),
        (TOO_OLD, "too old for these arguments: compression"),
        (NO_TOKEN, "cannot work together: an agent of 10.2 or later needs Ironic 29 or later"),
        (TIMEOUT, "the ramdisk did not report to Ironic in time"),
        (ABORTED, "it was aborted"),
        ("something else", "ended in the state service failed without an image: something else"),
        (None, "Ironic gives no reason"),
    ],
)
def test_what_ironic_says_is_told_with_what_it_means(last_error: str, meaning: str) -> None:
    error = why(last_error)
    assert isinstance(error, errors.ServiceFailed)
    assert meaning in str(error)
    assert (last_error or "") in str(error)


def test_control_characters_of_a_ramdisk_do_not_reach_the_terminal() -> None:
    error = why("Service step deploy.snapshot failed on node x. ReadFailed: \x1b[2Jhidden")
    assert "\x1b" not in str(error)
