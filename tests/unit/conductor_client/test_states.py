# SPDX-License-Identifier: Apache-2.0
"""The specification's states and transitions, as data."""

import pytest

from conductor_client import states

# As the specification lists them.
SPECIFICATION = [
    "active -> snapshotting (on snapshot)",
    "snapshotting -> snapshot failed (on fail)",
    "snapshotting -> snapshot wait (on wait)",
    "snapshot wait -> snapshotting (on resume)",
    "snapshot wait -> snapshot failed (on fail)",
    "snapshot wait -> snapshot failed (on abort)",
    "snapshotting -> active (on done)",
    "snapshot failed -> active (on abort)",
    "snapshot failed -> snapshotting (on snapshot)",
    "snapshot wait -> deleting (on deleted)",
    "snapshot failed -> deleting (on deleted)",
]


def test_the_transitions_are_the_eleven_of_the_specification() -> None:
    assert [
        "%s -> %s (on %s)" % (one.source, one.target, one.event) for one in states.TRANSITIONS
    ] == SPECIFICATION


def test_each_is_carried_by_one_of_ironic_s_own_and_found_again() -> None:
    for transition in states.TRANSITIONS:
        source, target = transition.carried_by
        assert (states.spoken(source), states.spoken(target)) == (
            transition.source, transition.target,
        )  # fmt: skip
        assert transition in states.between(source, target)


@pytest.mark.parametrize(
    ("ironic", "spoken"),
    [
        ("servicing", "snapshotting"), ("service wait", "snapshot wait"),
        ("service failed", "snapshot failed"), ("active", "active"), ("available", "available"),
    ],
)  # fmt: skip
def test_states_are_spoken_in_the_specification_s_words(ironic: str, spoken: str) -> None:
    assert states.spoken(ironic) == spoken


def test_a_change_that_is_none_of_them_is_not_found() -> None:
    assert states.between("active", "deleting") == ()
    assert states.between("snapshotting", "active") == ()
