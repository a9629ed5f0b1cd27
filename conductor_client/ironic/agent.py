# SPDX-License-Identifier: Apache-2.0
"""The implementation ``agent``: the ramdisk captures, and this conductor uploads.

A snapshot goes from phase to phase, each of which is committed on the node: whichever conductor
looks at the node next goes on from there. What takes long is done in threads, without a lock.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ironic.common import exception
from ironic.conductor.task_manager import TaskManager
from ironic.conf import CONF
from ironic.objects import Node

from conductor_client import errors
from conductor_client.delivery import CaptureOptions
from conductor_client.ironic import config, glance, ledger, work
from conductor_client.ironic.agent_client import Listener, SnapshotAgentClient
from conductor_client.ironic.base import SnapshotInterface
from conductor_client.ironic.carrier import ServiceCarrier
from conductor_client.ironic.clean_up import CleanUp
from conductor_client.ironic.config import Settings
from conductor_client.ironic.image_access import NotYet, projects_of
from conductor_client.ironic.jobs import Jobs
from conductor_client.ironic.record import Book, Phase, Record

config.register(CONF)

# After these a captured image is as good as before, and another upload may succeed.
_KEEPING = (
    errors.UploadFailed, errors.ImageNotQueued, errors.InvalidRequest, errors.StorageUnavailable,
)  # fmt: skip


class AgentSnapshot(SnapshotInterface):
    """Sends the agent ``snapshot.stream_image``, follows it, and brings the image into Glance."""

    def __init__(self, carrier: ServiceCarrier | None = None) -> None:
        self._carrier = carrier or ServiceCarrier(self.interface_type, ("snapshot",))
        self._listener = Listener()
        self._preparations: Jobs[None] = Jobs()
        self._uploads: Jobs[None] = Jobs()
        self._clean_up = CleanUp(self._carrier, self._forget)
        self._emptied: Path | None = None

    def get_properties(self) -> dict[str, str]:
        """See Ironic's BaseInterface."""
        return {}

    def validate(self, task: TaskManager) -> None:
        """See Ironic's BaseInterface."""
        try:
            Settings.read(CONF).access()
        except errors.InvalidRequest as exc:
            raise exception.InvalidParameterValue(str(exc)) from exc

    def snapshot(self, task: TaskManager, image_ref: str, **options: Any) -> str:
        """See :meth:`.SnapshotInterface.snapshot`; ``options`` are some of CaptureOptions.

        Nothing is checked here: what a step raises makes Ironic 39 leave the instance down.
        """
        given = {name: value for name, value in options.items() if value is not None}
        wanted = CaptureOptions(**{"writer": Settings.read(CONF).writer, **given})
        book = ledger.read(task.node).retired()
        record = Record.new(image_ref, wanted, ledger.now())
        ledger.write(task.node, Book(record, book.leftovers))
        self._note(task, record, "requested")
        return self._carrier.wait(task)

    def upload_again(self, task: TaskManager, image_ref: str) -> str:
        """Upload a captured image that was kept, into ``image_ref``; return the state to wait in.

        That none was kept is told later, as with :meth:`snapshot`.
        """
        now = ledger.now()
        book = ledger.read(task.node)
        record = book.record
        if record is None or record.phase != Phase.KEPT:
            book, record = book.retired(), Record.new(image_ref, CaptureOptions(), now)
        record = record.turned(Phase.UPLOADING, now, image_ref=image_ref)
        ledger.write(task.node, Book(record, book.leftovers))
        self._note(task, record, "to be uploaded again")
        return self._carrier.wait(task)

    def continue_snapshot(self, task: TaskManager) -> None:
        """See :meth:`.SnapshotInterface.continue_snapshot`."""
        record = ledger.read(task.node).record
        if record is None or not self._carrier.is_waiting(task.node):
            return
        try:
            self._continue(task, record)
            return
        except errors.SnapshotError as exc:
            error = exc
        # Not in the except: oslo.log adds what is handled to the lines of a log, and so to the JSON
        # of notifications there.
        self._fail(task, record, error)

    def clean_up(self, task: TaskManager) -> None:
        """See :meth:`.SnapshotInterface.clean_up`."""
        self._clean_up(task)

    def _continue(self, task: TaskManager, record: Record) -> None:
        settings = Settings.read(CONF)
        match record.phase:
            case Phase.REQUESTED:
                self._prepare(task, record, settings)
            case Phase.STARTING:
                raise errors.AgentUnavailable(
                    "the conductor was stopped while it sent the command: take the snapshot again"
                )
            case Phase.CAPTURING:
                self._follow(task, record, settings)
            case Phase.UPLOADING:
                self._upload(task, record, settings)
            case Phase.DONE:
                self._carrier.resume(task)

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
        with self._locked(task, record) as still:
            if not still:
                return
            params = {
                **settings.agent_access(task.node.uuid, record.generation),
                "image_name": record.image_name,
                **record.options.to_wire(),
            }
            with SnapshotAgentClient().agent(task.node) as agent:
                # Before any credentials are sent.
                agent.check()
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

    def _captures(self, task: TaskManager) -> int:
        return ledger.count_captures(task, self._carrier.wait_state)

    def _follow(self, task: TaskManager, record: Record, settings: Settings) -> None:
        if ledger.now() - record.since > settings.timeout:
            raise errors.AgentUnavailable(
                "the capture was not done within %d s: see [snapshot]timeout" % settings.timeout
            )
        captured = self._listener.ask(task.node, record).captured
        if captured is None:
            return
        if captured.image_name != record.image_name:
            raise errors.CommandFailed("an unusable result", "it is about another image")
        with self._locked(task, record) as still:
            if not still:
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
                work.upload, _work_task(task.node, record, settings), self._scratch(settings)
            )
            self._uploads.start(record.generation, upload, settings.max_concurrent_uploads)
        elif not job.running:
            try:
                job.result()
            except NotYet:
                self._uploads.forget(record.generation)
            else:
                self._finish(task, record)

    def _finish(self, task: TaskManager, record: Record) -> None:
        with self._locked(task, record) as still:
            if not still:
                return
            self._forget(record.generation)
            # Kept until the service is over: Ironic may be stopped before it goes on.
            ledger.turn(task, record, Phase.DONE)
            self._note(task, record, "done")
        self._carrier.resume(task)

    def _fail(self, task: TaskManager, record: Record, error: errors.SnapshotError) -> None:
        with self._locked(task, record, any_phase=True) as still:
            self._forget(record.generation)
            if not still:
                return
            message = "%s: %s" % (error.word, error)
            retention = Settings.read(CONF).retention
            if record.captured is not None and retention and isinstance(error, _KEEPING):
                ledger.turn(task, record, Phase.KEPT)
                message += (
                    "; the captured image %s is kept for %d s: the step upload_snapshot uploads it"
                    % (record.image_name, retention)
                )
            elif isinstance(error, errors.CommandFailed):
                ledger.turn(task, record, Phase.FAILED)
            self._carrier.fail(task, message)

    @contextlib.contextmanager
    def _locked(
        self, task: TaskManager, record: Record, *, any_phase: bool = False
    ) -> Iterator[bool]:
        """Lock the node for this task, and yield whether the snapshot is still as it was.

        :param any_phase: it may have been taken on meanwhile, by this same task.
        """
        # Reads the node anew.
        task.upgrade_lock(purpose="snapshot")
        found = ledger.read(task.node).record
        yield (
            found is not None
            and found.generation == record.generation
            and (any_phase or found.phase == record.phase)
            and self._carrier.is_waiting(task.node)
        )

    def _forget(self, generation: str) -> None:
        """End all that goes on for a snapshot in this process."""
        self._listener.forget(generation)
        self._preparations.forget(generation)
        self._uploads.forget(generation)

    def _note(self, task: TaskManager, record: Record, what: str) -> None:
        self._carrier.note(task, "Snapshot into image %s: %s" % (record.image_ref, what))

    def _scratch(self, settings: Settings) -> Path:
        # Not a property: Ironic's BaseInterface reads all of these when the conductor starts.
        if self._emptied is None:
            self._emptied = work.empty_scratch(settings.work_dir, CONF.host)
        return self._emptied


def _work_task(node: Node, record: Record, settings: Settings) -> work.Task:
    projects = projects_of(node.owner, node.lessee, node.instance_info.get("project_id"))
    return work.Task(node.uuid, projects, record, settings, glance.connect)
