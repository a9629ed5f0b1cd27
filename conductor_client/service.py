# SPDX-License-Identifier: Apache-2.0
"""A service of one node in Ironic: started, watched, and the instance brought back after it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from oslo_log import log

from conductor_client import errors, recovery, states
from conductor_client.delivery import TIMEOUT_S
from conductor_client.node import (
    Node,
    Provision,
    Record,
    clear_service_fault,
    is_service_fault,
)
from conductor_client.reasons import why_failed
from snapshot_core.progress import OnProgress, Progress

LOG = log.getLogger(__name__)

STEP = "snapshot"
# Of the conductor's plug-in: a captured image is uploaded again.
UPLOAD_STEP = "upload_snapshot"
_POLL_S = 2.0
# Ironic locks a node for a moment whenever it looks at its power.
_LOCK_PATIENCE_S = 30
# How long the storage, or Glance, may be away while the node says that the step is done.
_ARRIVAL_PATIENCE_S = 600


@dataclass(frozen=True)
class Handling:
    """How the machine is treated.

    :param shutdown_timeout_s: how long the instance may take to shut down, in seconds, before
        Ironic cuts its power; 0: it is not asked.
    :param timeout_s: how long the capture may take, in seconds, from the request to the image.
    :param leave_failed: after a failure the node stays as it is, for a look; not where the
        conductor itself takes snapshots, since that brings the instance back at once.
    """

    shutdown_timeout_s: int = recovery.SHUTDOWN_TIMEOUT_S
    timeout_s: float = TIMEOUT_S
    leave_failed: bool = False


class Service:
    """One service with a step, or one snapshot by the verb, of one node."""

    def __init__(
        self, node: Node, asked: Provision, handling: Handling,
        on_progress: OnProgress | None,
    ) -> None:  # fmt: skip
        self._node = node
        self._asked = asked
        self._handling = handling
        #: Takes the progress.
        self.tell = on_progress or (lambda progress: None)
        self._before: Record | None = None
        self._shut_down = False
        self._was_off = False
        #: ``clean`` or ``crash``: what the file systems of the instance are like.
        self.consistency = "crash"
        #: Whether the service is known to have ended.
        self.is_over = False
        #: The node's provision state when it was brought back; None if that is not known.
        self.state: str | None = None

    def check(self) -> None:
        """Make sure that the node can be asked for the service.

        :raises: NodeNotReady, IronicUnavailable
        """
        self._before, was_on = self._read_free()
        record = self._before
        # Of a node whose service failed nobody knows it any more.
        is_active = record.provision_state == states.ACTIVE
        self._was_off = is_active and not was_on and record.power_state == recovery.POWER_OFF
        _check_state(record, self._asked)
        # Now, because Ironic looks at these only after the instance was shut down.
        if invalid := self._node.invalid_interfaces():
            raise errors.NodeNotReady(
                "node %s cannot be serviced: %s" % (record.name, "; ".join(invalid))
            )

    def _read_free(self) -> tuple[Record, bool]:
        """Return the node once it is not locked, and whether its power was seen on, or to change.

        Another command may be shutting it down.
        """
        deadline, was_on = time.monotonic() + _LOCK_PATIENCE_S, False
        while True:
            record = self._node.read()
            is_off = record.power_state == recovery.POWER_OFF and not record.target_power_state
            was_on |= not is_off
            if record.free:
                return record, was_on
            if time.monotonic() > deadline:
                raise errors.NodeNotReady(
                    "node %s is locked by %s: try again when that is done"
                    % (record.name, record.reservation)
                )
            time.sleep(_POLL_S)

    @property
    def before(self) -> Record:
        """The node as it was when it was checked."""
        if self._before is None:
            raise AssertionError("check() comes first")
        return self._before

    def start(self) -> None:
        """Shut the instance down and start the service; if that fails, the power is restored.

        So it is after an interrupt, unless the service is under way by then.

        :raises: NodeNotReady, IronicUnavailable
        """
        try:
            self._prepare()
            self.tell(Progress("boot"))
            self._node.provision(self._asked)
        except errors.NodeNotReady:
            self._leave(_LOCK_PATIENCE_S)
            raise
        except errors.SnapshotError:
            self.come_back(finishing=False)
            raise
        except KeyboardInterrupt:
            if self._shut_down:
                LOG.warning(
                    "Node %(node)s is powered on again, once what it does is over",
                    {"node": self._node.ident},
                )
            self._leave(self._handling.shutdown_timeout_s + _LOCK_PATIENCE_S)
            raise

    def _prepare(self) -> None:
        """Take away what blocks the service, and shut the instance down where it runs."""
        before = self.before
        if self._was_off:
            self.consistency = "clean"
            return
        if before.provision_state in states.FAILED:
            clear_service_fault(self._node, before)
            if not recovery.may_be_back(before):
                return
        if self._handling.shutdown_timeout_s:
            self.tell(Progress("shut down"))
            self._shut_down = True
            off = recovery.shut_down(self._node, self._handling.shutdown_timeout_s)
            self._shut_down = off is not None
            # What was shut down after a failure may have been the ramdisk.
            if off and (before.provision_state == states.ACTIVE or recovery.is_back(before)):
                self.consistency = "clean"

    def _leave(self, patience_s: float) -> None:
        """Take back what was done before the service was asked for, and no more.

        The node may be in the service of somebody who was quicker.
        """
        if not self._shut_down:
            return
        try:
            self._undo_shutdown(recovery.settled(self._node, patience_s))
        except errors.SnapshotError as exc:
            LOG.error("The instance may be off: %(reason)s", {"reason": exc})

    def _undo_shutdown(self, record: Record) -> None:
        if self._shut_down and record.provision_state == self.before.provision_state:
            recovery.power_on(self._node, record)

    def watch(self, arrived: Callable[[Record], bool]) -> None:
        """Return once something has ``arrived``, which is asked after every look at the node.

        :raises: CommandFailed, ServiceFailed, StorageUnavailable, UploadFailed, IronicUnavailable;
            the instance is back then, unless failed nodes are to be left.
        """
        try:
            self._watch(arrived)
        except errors.SnapshotError:
            if self._handling.leave_failed:
                LOG.warning("Node %(node)s is left as it is", {"node": self._node.ident})
            else:
                self.come_back(finishing=False)
            raise

    def _watch(self, arrived: Callable[[Record], bool]) -> None:
        deadline = time.monotonic() + self._handling.timeout_s
        patience = _Patience()
        while True:
            # Read first: whatever the node says now, what came before that can be seen after it.
            record = self._node.read()
            told = patience.ask(arrived, record)
            if told:
                return
            over = record.provision_state not in states.WORKING
            if told is not None and over and record.free:
                self.is_over = True
                raise why_failed(record)
            if time.monotonic() > deadline:
                raise errors.ServiceFailed(
                    "node %s was not done within %d s and is %s: take the snapshot again with a "
                    "longer timeout"
                    % (record.name, self._handling.timeout_s, states.spoken(record.provision_state))
                )
            time.sleep(_POLL_S)

    def _is_ours(self, record: Record) -> bool:
        return self._asked.may_be_in(record)

    def come_back(self, *, finishing: bool) -> list[str]:
        """Bring the instance back, with its power as before; log and return what went wrong.

        :param finishing: the step is done.
        """
        self.tell(Progress("return"))
        # Asked for here even if not before: its power would be cut in the middle of its boot.
        shutdown_timeout_s = self._handling.shutdown_timeout_s or recovery.SHUTDOWN_TIMEOUT_S
        try:
            record = recovery.bring_back(
                self._node,
                self._is_ours,
                finishing=finishing,
                leave_failed=self._handling.leave_failed,
                shutdown_timeout_s=shutdown_timeout_s,
            )
            self.state = record.provision_state
            if record.instance_uuid != self.before.instance_uuid:
                LOG.warning("Node %(node)s has another instance by now", {"node": record.name})
                self.is_over = True
                return []
            recovery.restore_power(
                self._node, record, was_off=self._was_off, shutdown_timeout_s=shutdown_timeout_s
            )
            if record.provision_state in states.FAILED:  # as before, and not ours to end
                self._undo_shutdown(record)
        except errors.SnapshotError as exc:
            warning = "the instance may not be back: %s" % exc
            LOG.error(warning)
            return [warning]
        self.is_over = True
        return []


def _check_state(record: Record, asked: Provision) -> None:
    """Raise NodeNotReady unless it can start from the node's state."""
    failed = record.provision_state == asked.failed_state
    if not failed and record.provision_state != states.ACTIVE:
        raise errors.NodeNotReady(
            "node %s is in the state %s, expected active" % (record.name, record.provision_state)
        )
    if record.provision_state == states.SERVICE_FAILED and not _may_be_ours(record):
        raise errors.NodeNotReady(
            "node %s is in the state %s, and not because of a snapshot: recover it first"
            % (record.name, record.provision_state)
        )
    # The maintenance that the failed service itself set is taken away at the start.
    if record.maintenance and not (failed and is_service_fault(record)):
        raise errors.NodeNotReady(
            "node %s is in maintenance (%s): a service cannot start"
            % (record.name, record.maintenance_reason or "no reason is given")
        )


def _may_be_ours(record: Record) -> bool:
    """Tell whether the service that failed was a snapshot; who is not shown that is believed."""
    if record.steps is None:
        LOG.warning(
            "This account is not shown which service of %(node)s failed", {"node": record.name}
        )
        return True
    return any(step.get("step") in (STEP, UPLOAD_STEP) for step in record.steps)


class _Patience:
    """Asks whether something has arrived, and bears that nobody tells for a while."""

    def __init__(self) -> None:
        self._away_since: float | None = None

    def ask(self, arrived: Callable[[Record], bool], record: Record) -> bool | None:
        """Return what ``arrived`` does, or None if the storage, or Glance, does not answer."""
        try:
            told = arrived(record)
        except (errors.StorageUnavailable, errors.UploadFailed) as exc:
            now = time.monotonic()
            self._away_since = self._away_since or now
            if now - self._away_since > _ARRIVAL_PATIENCE_S:
                raise
            LOG.warning("Not told yet whether the image is there: %(reason)s", {"reason": exc})
            return None
        self._away_since = None
        return told
