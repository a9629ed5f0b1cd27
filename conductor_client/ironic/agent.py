# SPDX-License-Identifier: Apache-2.0
"""The implementation ``agent``: the ramdisk captures, and this conductor uploads.

A snapshot goes from phase to phase, each of which is committed on the node: whichever conductor
looks at the node next goes on from there. What takes long is done in threads, without a lock.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from ironic.common import exception
from ironic.conductor.base_manager import BaseConductorManager
from ironic.conductor.task_manager import TaskManager
from ironic.conf import CONF
from ironic.objects import Node

from conductor_client import errors
from conductor_client.delivery import CaptureOptions, check_captured, encrypting
from conductor_client.ironic import config, glance, ledger, periodic, work
from conductor_client.ironic.agent_client import Listener
from conductor_client.ironic.base import SnapshotInterface
from conductor_client.ironic.carrier import WAYS, Carrier, StateCarrier
from conductor_client.ironic.clean_up import CleanUp
from conductor_client.ironic.clocks import Clocks
from conductor_client.ironic.config import Settings
from conductor_client.ironic.image_access import Image, NotYet, projects_of
from conductor_client.ironic.jobs import Jobs
from conductor_client.ironic.metrics import get_metrics_logger
from conductor_client.ironic.record import Phase, Record

config.register(CONF)
METRICS = get_metrics_logger(__name__)

_PURPOSE = "snapshot"
# How long an image may take what this conductor does not send: Glance notices within minutes that
# another one is gone, unless it was stopped itself.
_SETTLE_S = 600
# How long Ironic may take to go on before it is asked again, in case it was stopped.
_RESUME_S = 60
_STOPPED_IN_FAILURE = (
    "the conductor was stopped while it brought the instance back after a failure, of which its "
    "log tells"
)

# After these a captured image is as good as before, and another upload may succeed.
_KEEPING = (
    errors.UploadFailed, errors.ImageNotQueued, errors.InvalidRequest, errors.StorageUnavailable,
)  # fmt: skip


class AgentSnapshot(SnapshotInterface):
    """Sends the agent ``snapshot.stream_image``, follows it, and brings the image into Glance."""

    # One for all: a conductor with both ways has two objects, each of which cleans up after both.
    _preparations: ClassVar[Jobs[None]] = Jobs()
    _uploads: ClassVar[Jobs[None]] = Jobs()

    def __init__(self, carrier: Carrier | None = None) -> None:
        self._carrier = carrier or StateCarrier()
        self._listener = Listener(self._carrier.timeout_option)
        self._not_yet = Clocks()
        self._resumed = Clocks()
        self._clean_up = CleanUp(self._forget)

    def get_properties(self) -> dict[str, str]:
        """See Ironic's BaseInterface."""
        return {}

    def validate(self, task: TaskManager) -> None:
        """See Ironic's BaseInterface."""
        try:
            Settings.read(CONF).check()
        except errors.InvalidRequest as exc:
            raise exception.InvalidParameterValue(str(exc)) from exc

    def validate_image_ref(self, task: TaskManager, image_ref: str) -> None:
        """See :meth:`.SnapshotInterface.validate_image_ref`."""
        try:
            image = Image.read(glance.connect(), image_ref)
            image.check_access(_projects(task.node))
            image.check_queued()
        except errors.UploadFailed as exc:
            raise exception.ServiceUnavailable(str(exc)) from exc
        except errors.SnapshotError as exc:
            raise exception.InvalidParameterValue("%s: %s" % (exc.word, exc)) from exc

    def snapshot(self, task: TaskManager, image_ref: str, **options: Any) -> str:
        """See :meth:`.SnapshotInterface.snapshot`; ``options`` are some of CaptureOptions.

        Nothing is checked here: what a step raises makes Ironic 39 leave the instance down.
        """
        given = {name: value for name, value in options.items() if value is not None}
        wanted = CaptureOptions(**{"writer": Settings.read(CONF).writer, **given})
        book = ledger.read_or_give_up(task.node).retired()
        record = _new_record(task.node, image_ref, wanted)
        ledger.write(task.node, replace(book, record=record))
        self._note(task, record, "requested")
        return self._carrier.wait(task)

    def upload_again(self, task: TaskManager, image_ref: str) -> str:
        """Upload a captured image that was kept, into ``image_ref``; return the state to wait in.

        That none was kept is told later, as with :meth:`snapshot`.
        """
        now = ledger.now()
        book = ledger.read_or_give_up(task.node)
        record = book.record
        if (
            record is None
            or record.disk_of != ledger.tenancy(task.node)
            or not record.kept_for_s(now, Settings.read(CONF).retention)
        ):
            book, record = book.retired(), _new_record(task.node, image_ref, CaptureOptions())
        record = record.turned(Phase.UPLOADING, now, image_ref=image_ref)
        ledger.write(task.node, replace(book, record=record))
        self._note(task, record, "to be uploaded again")
        return self._carrier.wait(task)

    def continue_snapshot(self, task: TaskManager) -> None:
        """See :meth:`.SnapshotInterface.continue_snapshot`."""
        if not self._carrier.is_waiting(task.node):
            return
        record = None
        try:
            if record := ledger.read(task.node).record:
                self._continue(task, record)
            return
        except errors.SnapshotError as exc:
            error = exc
        # Not in the except: oslo.log adds what is handled to the lines of a log, and so to the JSON
        # of notifications there.
        if record is None:
            self._fail_unread(task, error)
        else:
            self._fail(task, record, error)

    def clean_up(self, task: TaskManager) -> None:
        """See :meth:`.SnapshotInterface.clean_up`."""
        self._clean_up(task)

    @METRICS.timer("AgentSnapshot.continue_snapshots")
    @periodic.following(StateCarrier.wait_state)
    def continue_snapshots(
        self, task: TaskManager, _manager: BaseConductorManager, _context: Any
    ) -> None:
        """Take all snapshots that go on a step further."""
        periodic.follow(self, task)

    @METRICS.timer("AgentSnapshot.clean_up_snapshots")
    @periodic.cleaning_up()
    def clean_up_snapshots(self, manager: BaseConductorManager, context: Any) -> None:
        """Clean up after snapshots that are over, in whatever state their nodes are."""
        periodic.clean_up(self, manager, context)

    def _continue(self, task: TaskManager, record: Record) -> None:
        settings = Settings.read(CONF)
        match record.phase:
            case Phase.REQUESTED:
                self._prepare(task, record, settings)
            case Phase.STARTING:
                self._give_up_start(task, record)
            case Phase.CAPTURING:
                self._follow(task, record, settings)
            case Phase.UPLOADING:
                self._upload(task, record, settings)
            case Phase.DONE:
                self._resume(task, record)
            case Phase.FAILED:
                raise errors.AgentUnavailable(_STOPPED_IN_FAILURE)
            case Phase.KEPT:
                raise errors.UploadFailed(_STOPPED_IN_FAILURE)

    def _prepare(self, task: TaskManager, record: Record, settings: Settings) -> None:
        job = self._preparations.find(record.generation)
        most = settings.max_concurrent_snapshots
        if job is None:
            check = functools.partial(work.prepare, _work_task(task.node, record, settings))
            self._preparations.start(record.generation, check, most)
        elif not job.running:
            job.result()
            if self._captures(task) < most:
                self._start(task, record, settings)

    def _start(self, task: TaskManager, record: Record, settings: Settings) -> None:
        with self._locked(task, record) as found:
            if not found or (agent := self._listener.find(task.node, record)) is None:
                return
            with agent:
                options = encrypting(record.options, settings.encryption_key())
                record = replace(record, options=options)
                params = {
                    **settings.agent_access(task.node.uuid, record.generation),
                    "image_name": record.image_name,
                    **options.to_wire(),
                }
                # Before the command is sent: whatever happens then, the image's name is known.
                ledger.turn(task, record, Phase.STARTING)
                # Other conductors count, too: only what is committed shows to all of them. Of two
                # that find each other here none starts, and each tries again later.
                if self._captures(task) > settings.max_concurrent_snapshots:
                    ledger.turn(task, record, Phase.REQUESTED)
                    return
                command_id = agent.start(params)
            self._preparations.forget(record.generation)
            ledger.turn(task, record, Phase.CAPTURING, command_id=command_id)
            self._note(task, record, "capturing %s" % record.image_name)

    def _give_up_start(self, task: TaskManager, record: Record) -> None:
        # Whoever sends the command holds the lock meanwhile.
        with self._locked(task, record) as found:
            if found:
                raise errors.AgentUnavailable(
                    "the conductor was stopped while it sent the command: take the snapshot again"
                )

    def _captures(self, task: TaskManager) -> int:
        return ledger.count_captures(task, [way.wait_state for way in WAYS])

    def _follow(self, task: TaskManager, record: Record, settings: Settings) -> None:
        if ledger.now() - record.since > settings.timeout:
            raise errors.AgentUnavailable(
                "the capture was not done within %d s: see [snapshot]timeout" % settings.timeout
            )
        captured = self._listener.ask(task.node, record).captured
        # The agent's heartbeats may not come through, and it works all the same.
        task.node.touch_provisioning()
        if captured is None:
            return
        check_captured(captured, record.image_name, record.options.encrypt_for)
        with self._locked(task, record) as found:
            if not found:
                return
            record = ledger.turn(task, record, Phase.UPLOADING, captured=captured)
            self._note(
                task, record,
                "captured, %d bytes of a disk of %d bytes" % (captured.size, captured.virtual_size),
            )  # fmt: skip
        self._upload(task, record, settings)

    def _upload(self, task: TaskManager, record: Record, settings: Settings) -> None:
        # Where the service has no ramdisk, no heartbeat shows Ironic that it goes on.
        task.node.touch_provisioning()
        if ledger.now() - record.since > settings.timeout:
            raise errors.UploadFailed(
                "the upload was not done within %d s: see [snapshot]timeout" % settings.timeout
            )
        job = self._uploads.find(record.generation)
        if job is None:
            upload = functools.partial(
                work.upload,
                _work_task(task.node, record, settings),
                work.scratch(settings.work_dir, CONF.host),
            )
            self._uploads.start(record.generation, upload, settings.max_concurrent_uploads)
        elif not job.running:
            try:
                job.result()
            except NotYet as exc:
                self._uploads.forget(record.generation)
                if self._not_yet.elapsed_s(record.generation) > _SETTLE_S:
                    raise errors.UploadFailed(
                        "%s for more than %d s, and not by this conductor" % (exc, _SETTLE_S)
                    ) from exc
            else:
                self._finish(task, record)

    def _finish(self, task: TaskManager, record: Record) -> None:
        with self._locked(task, record) as found:
            if not found:
                return
            self._forget(record.generation)
            # Kept until the service is over: Ironic may be stopped before it goes on.
            ledger.turn(task, record, Phase.DONE)
            self._note(task, record, "done")
        self._resume(task, record)

    def _resume(self, task: TaskManager, record: Record) -> None:
        # Until Ironic has gone on. A second request that is behind the first one would end the step
        # after this one, too.
        if self._resumed.is_due(record.generation, _RESUME_S):
            self._carrier.resume(task)

    def _fail(self, task: TaskManager, record: Record, error: errors.SnapshotError) -> None:
        with self._locked(task, record, any_phase=True) as found:
            self._forget(record.generation)
            if not found:
                return
            message = "%s: %s" % (error.word, error)
            ended = _ended(found, error)
            if ended != found:
                ledger.put(task, ended)
            if left_s := ended.kept_for_s(ledger.now(), Settings.read(CONF).retention):
                message += "; the captured image %s is kept for %d s: %s uploads it" % (
                    found.image_name, left_s, self._carrier.uploads_again,
                )  # fmt: skip
            self._carrier.fail(task, message)

    def _fail_unread(self, task: TaskManager, error: errors.SnapshotError) -> None:
        task.upgrade_lock(purpose=_PURPOSE)
        if self._carrier.is_waiting(task.node):
            self._carrier.fail(task, "%s: %s" % (error.word, error))

    @contextlib.contextmanager
    def _locked(
        self, task: TaskManager, record: Record, *, any_phase: bool = False
    ) -> Iterator[Record | None]:
        """Lock the node for this task, and yield the record, or None if it is not as it was.

        :param any_phase: it may have been taken on meanwhile, by this same task.
        """
        # Reads the node anew.
        task.upgrade_lock(purpose=_PURPOSE)
        found = ledger.read(task.node).record
        same = (
            found is not None
            and found.generation == record.generation
            and (any_phase or found.phase == record.phase)
            and self._carrier.is_waiting(task.node)
        )
        yield found if same else None

    def _forget(self, generation: str) -> None:
        """End all that goes on for a snapshot in this process."""
        self._listener.forget(generation)
        self._not_yet.stop(generation)
        self._resumed.stop(generation)
        self._preparations.forget(generation)
        self._uploads.forget(generation)

    def _note(self, task: TaskManager, record: Record, what: str) -> None:
        self._carrier.note(task, "Snapshot into image %s: %s" % (record.image_ref, what))


def _new_record(node: Node, image_ref: str, options: CaptureOptions) -> Record:
    return Record.new(image_ref, options, ledger.now(), ledger.tenancy(node))


def _ended(record: Record, error: errors.SnapshotError) -> Record:
    """Return the record after an error."""
    if record.captured is not None and isinstance(error, _KEEPING):
        return record.kept(ledger.now())
    phase = Phase.FAILED if isinstance(error, errors.CommandFailed) else record.phase
    return replace(record, phase=phase, kept_since=None)


def _work_task(node: Node, record: Record, settings: Settings) -> work.Task:
    return work.Task(node.uuid, _projects(node), record, settings, glance.connect)


def _projects(node: Node) -> frozenset[str]:
    return projects_of(node.owner, node.lessee, node.instance_info.get("project_id"))
