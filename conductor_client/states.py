# SPDX-License-Identifier: Apache-2.0
"""The states of a snapshot as its specification names them, and how Ironic carries each.

An unmodified Ironic knows neither the states nor the verb. It takes a snapshot as a service
with one step, and its machine of service states has the same shape. So each of the
specification's eleven transitions is one of Ironic's own.
"""

from dataclasses import dataclass

ACTIVE = "active"
SNAPSHOTTING = "snapshotting"
SNAPSHOT_WAIT = "snapshot wait"
SNAPSHOT_FAILED = "snapshot failed"
DELETING = "deleting"

SERVICING = "servicing"
SERVICE_WAIT = "service wait"
SERVICE_FAILED = "service failed"
SERVICE_HOLD = "service hold"

SNAPSHOT_STATES = (SNAPSHOTTING, SNAPSHOT_WAIT, SNAPSHOT_FAILED)
# A snapshot, or what carries it, goes on in these, and may go on in those.
WORKING = (SERVICING, SERVICE_WAIT, SNAPSHOTTING, SNAPSHOT_WAIT)
AT_WORK = (*WORKING, SERVICE_HOLD)
# In these it failed, and its instance may be down.
FAILED = (SERVICE_FAILED, SNAPSHOT_FAILED)

# While the agent works, Ironic shows `service wait` and not `servicing`: the step is an
# asynchronous one. That counts as `snapshot wait`, too.
_CARRIED_BY = {
    ACTIVE: ACTIVE,
    SNAPSHOTTING: SERVICING,
    SNAPSHOT_WAIT: SERVICE_WAIT,
    SNAPSHOT_FAILED: SERVICE_FAILED,
    DELETING: DELETING,
}
_SPOKEN = {carrier: state for state, carrier in _CARRIED_BY.items()}


@dataclass(frozen=True)
class Transition:
    """From the state ``source`` to ``target`` on ``event``, in the specification's words.

    ``carriers`` are the events of Ironic's own machine that make it: its releases differ.
    """

    source: str
    event: str
    target: str
    carriers: tuple[str, ...]

    @property
    def carried_by(self) -> tuple[str, str]:
        """The two provision states of Ironic's that it goes between."""
        return _CARRIED_BY[self.source], _CARRIED_BY[self.target]


# An abort: Ironic 39 goes on to active in the same request, and calls the first half `fail`;
# before 32.0 it stops in `service failed`, by `abort`, from where only `service` leads on.
TRANSITIONS = (
    Transition(ACTIVE, "snapshot", SNAPSHOTTING, ("service",)),
    Transition(SNAPSHOTTING, "fail", SNAPSHOT_FAILED, ("fail",)),
    Transition(SNAPSHOTTING, "wait", SNAPSHOT_WAIT, ("wait",)),
    Transition(SNAPSHOT_WAIT, "resume", SNAPSHOTTING, ("resume",)),
    Transition(SNAPSHOT_WAIT, "fail", SNAPSHOT_FAILED, ("fail",)),
    Transition(SNAPSHOT_WAIT, "abort", SNAPSHOT_FAILED, ("fail", "abort")),
    Transition(SNAPSHOTTING, "done", ACTIVE, ("done",)),
    Transition(SNAPSHOT_FAILED, "abort", ACTIVE, ("abort",)),
    Transition(SNAPSHOT_FAILED, "snapshot", SNAPSHOTTING, ("service",)),
    Transition(SNAPSHOT_WAIT, "deleted", DELETING, ("delete",)),
    Transition(SNAPSHOT_FAILED, "deleted", DELETING, ("delete",)),
)


def spoken(provision_state: str) -> str:
    """Return the specification's word for a provision state of a node that is being snapshotted.

    States that have nothing to do with a snapshot keep their names.
    """
    return _SPOKEN.get(provision_state, provision_state)


def between(source: str, target: str) -> tuple[Transition, ...]:
    """Return the transitions that a change between two of Ironic's provision states can be."""
    return tuple(one for one in TRANSITIONS if one.carried_by == (source, target))
