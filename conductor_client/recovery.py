# SPDX-License-Identifier: Apache-2.0
"""Bring the instance back after a service, however that ended, and the power as it was.

Ironic 39 alone leaves the instance down after a failure, in two ways: a step that fails leaves
the node in ``service failed`` on the ramdisk; a timeout during a step also sets maintenance, before
which it skips power, networks and boot device. In both cases an abort restores all three, once the
maintenance is over. The conductor's plug-in brings the instance back by itself: then an abort would
cut its power.
"""

import re
import time
from collections.abc import Callable

from oslo_log import log

from conductor_client import errors, states
from conductor_client.node import (
    SERVICE_FAULT,
    Node,
    Record,
    clear_service_fault,
    is_service_fault,
)

LOG = log.getLogger(__name__)

_POLL_S = 2.0
# How long Ironic may take to power off, change networks, and power on: BMCs are slow.
_PATIENCE_S = 1800
# How long a step that is done may take to be noticed: the agent's next heartbeat brings it.
_NOTICE_S = 600
# How much longer than a shutdown itself Ironic may take to say that it failed.
_SLACK_S = 60
_SERVICES = (*states.AT_WORK, *states.FAILED)
# How Ironic before 32.0 refuses to abort a service that failed; the first version of the API after.
_NO_WAY_OUT = 'while it is in state "%s"' % states.SERVICE_FAILED
_WAY_OUT_VERSION = "1.100"
# What the conductor's plug-in writes on a node when it has brought its instance back, and what
# Ironic adds if that went wrong.
_BROUGHT_BACK = re.compile(r"Service step vendor\.\S+ failed on |.* The instance is brought back.$")
_NOT_BROUGHT_BACK = "Also failed to tear down"
# What Ironic says when an abort has not brought it back, and calls the node active.
_NOT_BACK = (
    "Failed to tear down service after aborting",
    "Also failed to bring the instance back",
)
SHUTDOWN_TIMEOUT_S = 300
# Ironic may refuse a request because it looks at the node's power just then.
_TRIES = 3
POWER_ON, POWER_OFF = "power on", "power off"


def bring_back(
    node: Node,
    is_ours: Callable[[Record], bool],
    *,
    finishing: bool,
    leave_failed: bool = False,
    shutdown_timeout_s: int = SHUTDOWN_TIMEOUT_S,
) -> Record:
    """Return when the node is active and free, or deleted, or in a service of somebody else.

    :param is_ours: tells whether the service that runs or failed is the one to end.
    :param finishing: the step is done, so that the service is given time to end by itself.
    :param leave_failed: a node whose service failed is left so, which is an error.
    :param shutdown_timeout_s: how long an instance that runs may take to shut down, in seconds,
        where nothing but an abort leads on.
    :raises: NodeNotReady, IronicUnavailable, ServiceFailed
    """
    began = time.monotonic()
    way = _WayBack(node, shutdown_timeout_s)
    while time.monotonic() - began < _PATIENCE_S:
        record = node.read()
        if leave_failed and record.provision_state in states.FAILED:
            raise errors.ServiceFailed(
                "node %s is %s (%s) and is left so, as was asked"
                % (record.name, record.provision_state, record.last_error or "no reason is given")
            )
        patient = finishing and time.monotonic() - began < _NOTICE_S
        if record.free:
            is_service = record.provision_state in _SERVICES
            # Ours is over by then, and who is not shown the steps cannot tell it from another.
            may_be_another = finishing and not patient and record.steps is None
            at_work = record.provision_state in states.AT_WORK
            is_other = not is_ours(record) or (at_work and may_be_another)
            if is_service and not way.is_left and is_other:
                LOG.warning("Node %(node)s is in another service", {"node": record.name})
                return record
            if way.is_settled(record, patient=patient):
                return record
        time.sleep(_POLL_S)
    raise errors.ServiceFailed(
        "node %s is %s after %d s: bring it back by hand, with 'openstack baremetal node abort %s'"
        % (record.name, record.provision_state, _PATIENCE_S, record.uuid)
    )


def is_back(record: Record) -> bool:
    """Tell whether the instance of a snapshot that failed is known to run again."""
    if record.provision_state == states.SNAPSHOT_FAILED:
        # Where the steps are shown, so is whether it is in the ramdisk.
        return record.steps is not None and not record.in_ramdisk
    said = record.last_error or ""
    by_plugin = any(step.get("interface") == "vendor" for step in record.steps or ())
    return by_plugin and bool(_BROUGHT_BACK.match(said)) and _NOT_BROUGHT_BACK not in said


def may_be_back(record: Record) -> bool:
    """Tell whether it may be that; else the machine is in the ramdisk, or off."""
    in_ramdisk = record.in_ramdisk or record.fault == SERVICE_FAULT
    return record.power_state != POWER_OFF and not in_ramdisk


class _WayBack:
    """The steps towards a node that is active.

    :ivar is_left: a service was asked for that leads out of the failed one.
    """

    def __init__(self, node: Node, shutdown_timeout_s: int) -> None:
        self._node = node
        self._shutdown_timeout_s = shutdown_timeout_s
        self._tries = _TRIES
        self.is_left = False

    def is_settled(self, record: Record, *, patient: bool) -> bool:
        """Tell whether nothing is left to do; else take the next step towards that."""
        match record.provision_state:
            case states.ACTIVE:
                _check_aborted(record)
                return True
            case states.SERVICE_FAILED | states.SNAPSHOT_FAILED:
                clear_service_fault(self._node, record)
                self._leave_failure(record)
            case states.SERVICING | states.SNAPSHOTTING:
                pass
            case states.SERVICE_WAIT | states.SERVICE_HOLD | states.SNAPSHOT_WAIT:
                if not patient:
                    _abort(self._node, record)
            case other:
                LOG.warning("Node %(node)s is %(state)s", {"node": record.name, "state": other})
                return True
        return False

    def _leave_failure(self, record: Record) -> None:
        # By the verb, Ironic aborts what is back without a change of the power.
        if record.provision_state == states.SERVICE_FAILED and may_be_back(record):
            if is_back(record) and self._tries and not self.is_left:
                self._tries -= 1
                self.is_left = self._leave(record)
                return
            if self._node.knows_version(_WAY_OUT_VERSION):
                shut_down(self._node, self._shutdown_timeout_s)
        _abort(self._node, record)

    def _leave(self, record: Record) -> bool:
        try:
            self._node.leave_failed_service()
        except errors.NodeNotReady as exc:
            LOG.warning(
                "Node %(node)s stays %(state)s, although its instance is back: %(why)s",
                {"node": record.name, "state": record.provision_state, "why": exc},
            )
            return False
        return True


def _check_aborted(record: Record) -> None:
    """Raise ServiceFailed if Ironic could not bring the instance back, and left it at that."""
    said = record.last_error or ""
    if is_service_fault(record) or any(saying in said for saying in _NOT_BACK):
        raise errors.ServiceFailed(
            "node %s is active, and its machine may still be in the ramdisk (%s): put right what "
            "kept it, and take the snapshot again; that brings the instance back, too"
            % (record.name, said or record.maintenance_reason or "no reason is given")
        )


def _abort(node: Node, record: Record) -> None:
    """Ask for the abort; that it is refused for now is no error.

    :raises: ServiceFailed when Ironic never can, IronicUnavailable
    """
    LOG.warning(
        "Aborting the service of node %(node)s, which is %(state)s, to bring its instance back",
        {"node": record.name, "state": record.provision_state},
    )
    try:
        node.abort()
    except errors.NodeNotReady as exc:
        if _NO_WAY_OUT in str(exc):
            raise errors.ServiceFailed(
                "node %s is %s, which this Ironic cannot abort (32.0 and later can): its machine "
                "stays in the ramdisk until a service succeeds; take the snapshot again, and once "
                "more if that only brings the instance back" % (record.name, record.provision_state)
            ) from exc
        # It has moved on, or a conductor holds its lock: the next look tells.
        LOG.info("Not aborted: %(reason)s", {"reason": exc})


def restore_power(node: Node, record: Record, *, was_off: bool, shutdown_timeout_s: int) -> None:
    """Give an active node the power that it had before; Ironic powers it on after each service.

    :raises: NodeNotReady, IronicUnavailable, ServiceFailed
    """
    if record.provision_state != states.ACTIVE:
        return
    if not was_off:
        power_on(node, record)
        return
    if record.power_state == POWER_OFF:
        return
    # The instance has begun to boot: it is asked before its power is cut.
    if not shut_down(node, shutdown_timeout_s):
        node.set_power(POWER_OFF)
        wait_for_power(node, POWER_OFF, _PATIENCE_S)


def power_on(node: Node, record: Record) -> None:
    """Power a node on if it is not.

    :raises: NodeNotReady, IronicUnavailable, ServiceFailed
    """
    if record.power_state != POWER_ON:
        node.set_power(POWER_ON)
        wait_for_power(node, POWER_ON, _PATIENCE_S)


def shut_down(node: Node, timeout_s: int) -> bool | None:
    """Ask the instance to shut down, and tell whether it is off within ``timeout_s``.

    None: Ironic did not take the request, so that nothing was changed.
    """
    off = None
    try:
        node.set_power("soft power off", timeout_s)
        off = False
        wait_for_power(node, POWER_OFF, timeout_s + _SLACK_S)
    except (errors.NodeNotReady, errors.ServiceFailed) as exc:
        LOG.warning("No soft shutdown of node %(node)s: %(why)s", {"node": node.ident, "why": exc})
        return off
    return True


def wait_for_power(node: Node, wanted: str, timeout_s: float) -> None:
    """Return when Ironic is done with a change of the power.

    :raises: ServiceFailed when it failed, or is not done in time.
    """
    record = settled(node, timeout_s)
    if record.power_state != wanted:
        raise errors.ServiceFailed(
            "the power of node %s is %r, expected %r: %s"
            % (record.name, record.power_state, wanted, record.last_error or "it took too long")
        )


def settled(node: Node, timeout_s: float) -> Record:
    """Return the node once Ironic is done with a change of its power, or when time is up.

    :raises: NodeNotReady, IronicUnavailable
    """
    deadline = time.monotonic() + timeout_s
    record = node.read()
    # Ironic 39 holds the lock from its answer to the request until the change is over.
    while not record.free or record.target_power_state is not None:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
        record = node.read()
    return record
