# SPDX-License-Identifier: Apache-2.0
"""What is done in threads: the checks before a capture, and the way from the storage to Glance."""

import functools
import shutil
import threading
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslo_log import log

from conductor_client import delivery, errors
from conductor_client.images import GlanceImage
from conductor_client.ironic.config import Settings
from conductor_client.ironic.image_access import Image
from conductor_client.ironic.record import Record
from snapshot_core.location import manifest_name
from snapshot_core.progress import OnProgress, Progress

LOG = log.getLogger(__name__)

_EMPTYING = threading.Lock()


@dataclass(frozen=True)
class Task:
    """A snapshot, and what the work on it needs to know of its node.

    :ivar node: its UUID, which is the name of its collection in the storage.
    :ivar projects: those whose images may receive it.
    :ivar connect: returns a connection with the conductor's own rights.
    """

    node: str
    projects: Collection[str]
    record: Record
    settings: Settings
    connect: Callable[[], Any]

    @property
    def stored_name(self) -> str:
        """The image's name in the storage."""
        return "%s/%s" % (self.node, self.record.image_name)


def prepare(task: Task, _on_progress: OnProgress) -> None:
    """Make sure that what is asked for, image and storage are right; make the node's collection.

    :raises: InvalidRequest, ImageNotQueued, UploadFailed, StorageUnavailable, WriteFailed
    """
    task.record.check_options()
    task.settings.check()
    image = Image.read(task.connect(), task.record.image_ref)
    image.check_access(task.projects)
    image.check_queued()
    with task.settings.access().opened() as storage:
        storage.check()
        storage.make_collection(task.node)
        # Another name each time: a conductor that was killed here leaves one.
        delivery.check_storage(storage, "%s/ipa-snapshot-%s" % (task.node, uuid.uuid4().hex))


def upload(task: Task, scratch: Path, on_progress: OnProgress) -> None:
    """Bring a captured image into Glance, and remove it from the storage.

    An image that holds these very bytes already is right: a conductor sent them and was stopped
    before it could remember that.

    :param scratch: a directory where a raw image can be converted.
    :raises: UploadFailed, ImageNotQueued, InvalidRequest, StorageMismatch, StorageUnavailable,
        CommandFailed, NotYet
    """
    captured = task.record.captured
    if captured is None:
        raise errors.InvalidRequest(
            "no captured image of node %s was kept: take a new snapshot" % task.node
        )
    connection = task.connect()
    image = Image.read(connection, task.record.image_ref)
    image.check_access(task.projects)
    with task.settings.access().opened() as storage:
        if image.takes(captured.sha512):
            guard = _SpaceGuard(scratch, task.settings.min_free, on_progress)
            order = delivery.Order(
                storage, task.stored_name, image.id, GlanceImage(image.id, connection),
                task.record.options.image_format, str(scratch), guard,
                key=task.settings.encryption_key(),
            )  # fmt: skip
            try:
                delivery.deliver(order, captured)
            except errors.SnapshotError:
                # A conductor that had the node before may still be at it, and was quicker: it
                # removes the image from the storage, too.
                if not _has_come(connection, image.id, captured.sha512):
                    raise
        # Cancelled in the meantime, it stays for as long as it is to be kept.
        on_progress(Progress("clean up"))
        storage.discard(task.stored_name, manifest_name(task.stored_name))


def _has_come(connection: Any, image_id: str, sha512: str) -> bool:
    """Tell whether an image holds data of this digest.

    :raises: NotYet
    """
    try:
        return not Image.read(connection, image_id).takes(sha512)
    except (errors.UploadFailed, errors.ImageNotQueued):
        return False


class _SpaceGuard:
    """Ends a conversion before it fills the disk; what it is told is handed on."""

    def __init__(self, directory: Path, min_free: int, on_progress: OnProgress) -> None:
        self._directory = directory
        self._min_free = min_free
        self._on_progress = on_progress

    def __call__(self, progress: Progress) -> None:
        self._on_progress(progress)
        if progress.phase in ("fetch", "convert"):
            free = shutil.disk_usage(self._directory).free
            if free < self._min_free:
                raise errors.UploadFailed(
                    "%s has %d bytes free, and [snapshot]min_free wants %d: give it more room, or "
                    "take another writer than dd" % (self._directory, free, self._min_free)
                )


def scratch(work_dir: str, host: str) -> Path:
    """Return what :func:`empty_scratch` does, emptied by the first call of this process alone.

    :raises: UploadFailed
    """
    with _EMPTYING:
        return _emptied_once(work_dir, host)


def empty_scratch(work_dir: str, host: str) -> Path:
    """Return this conductor's own directory in ``work_dir``, without what an earlier run left.

    :raises: UploadFailed
    """
    scratch = Path(work_dir, "conductor-%s" % host)
    try:
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True, mode=0o700)
    except OSError as exc:
        raise errors.UploadFailed("%s cannot be used: %s" % (scratch, exc)) from exc
    return scratch


_emptied_once = functools.cache(empty_scratch)
