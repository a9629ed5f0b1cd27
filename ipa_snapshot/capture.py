# SPDX-License-Identifier: Apache-2.0
"""Take a snapshot: from an open disk, through a writer, to a confirmed image in the storage."""

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeGuard
from uuid import UUID

from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.partitions import Partition, list_partitions
from ipa_snapshot.devices.sectors import LostSectors
from ipa_snapshot.devices.source import Source, open_source
from ipa_snapshot.progress_object import ProgressObject
from ipa_snapshot.request import SnapshotRequest
from ipa_snapshot.writers import base as writers
from snapshot_core.credentials import Trust
from snapshot_core.encryption import PublicKey, encrypted_size
from snapshot_core.location import Location, manifest_name, stop_name
from snapshot_core.progress import Meter, OnProgress, Progress
from snapshot_core.storage import open_storage
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

_STOP_INTERVAL_S = 5
_MOST_S = 5  # a look for the object that ends it is waited for
_MOST_LOST = 100  # of the extents that were lost, so many are named in a result


@dataclass(frozen=True)
class Purpose:
    """What an image in the storage is there for: its manifest tells whoever finds it.

    :ivar node: the UUID of the node whose disk it is.
    :ivar image_ref: where it is to go.
    :ivar keep_s: after so many seconds in the storage it may be removed. Not a date: the clock of a
        machine in a ramdisk may be wrong.
    """

    node: str
    image_ref: str | None = None
    keep_s: int | None = None

    @classmethod
    def parse(cls, node: str, image_ref: object, keep_s: object) -> "Purpose":
        """Check the arguments of the service step; each may be None.

        :raises: InvalidRequest
        """
        if image_ref is not None and not _is_image_ref(image_ref):
            raise errors.InvalidRequest(
                "image_ref must be an image's UUID or file:///path, and holds no credentials"
            )
        if keep_s is not None and (type(keep_s) is not int or keep_s <= 0):
            raise errors.InvalidRequest("keep_s must be a whole number of seconds above 0")
        return cls(node, image_ref, keep_s)

    def to_wire(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {key: value for key, value in vars(self).items() if value is not None}


def _is_image_ref(image_ref: object) -> TypeGuard[str]:
    with contextlib.suppress(ValueError):
        return isinstance(image_ref, str) and bool(UUID(image_ref))
    with contextlib.suppress(errors.InvalidRequest):
        return Location.parse(image_ref).scheme == "file"
    return False


@dataclass(frozen=True)
class SnapshotResult:
    """A snapshot that is in the storage, whole and under its final name; sizes in bytes.

    The size and the digest are those of the image itself; what is stored of one that was encrypted
    is larger.
    """

    image_name: str
    device: BlockDevice
    writer: str
    written: writers.Written
    partitions: tuple[Partition, ...]
    elapsed_s: float
    lost: Extents
    purpose: Purpose | None
    encrypted_for: PublicKey | None

    def to_wire(self) -> dict[str, Any]:
        """Return the result of the agent's command, which is the manifest beside the image."""
        used_map = self.written.used_map
        return {
            "image_name": self.image_name,
            **(self.purpose.to_wire() if self.purpose else {}),
            "disk_format": self.written.disk_format,
            "virtual_size": self.device.size,
            "size": self.written.size,
            "checksum": {"algorithm": "sha512", "value": self.written.sha512},
            **({"encryption": self.encrypted_for.to_wire()} if self.encrypted_for else {}),
            "device": self.device.to_wire(),
            # A writer that knows no free blocks takes all for used.
            "used": used_map.extents.total if used_map else self.device.size,
            "bytes_read": self.written.bytes_read,
            "bytes_sent": self.written.bytes_sent,
            "writer": self.writer,
            "compression": self.written.compression,
            "partitions": [partition.to_wire() for partition in self.partitions],
            "lost": {"bytes": self.lost.total, "extents": list(self.lost)[:_MOST_LOST]},
            "warnings": [*(used_map.warnings if used_map else ()), *self._losses()],
            "elapsed_s": round(self.elapsed_s, 3),
        }

    def _losses(self) -> list[str]:
        if not self.lost:
            return []
        return [
            "%d bytes at %d places could not be read from %s, and are zeros in the image"
            % (self.lost.total, len(self.lost), self.device.name)
        ]


def take_snapshot(
    request: SnapshotRequest,
    device: BlockDevice,
    trust: Trust | None = None,
    on_progress: OnProgress | None = None,
    purpose: Purpose | None = None,
) -> SnapshotResult:
    """Store an image of ``device`` as the ``request`` says.

    The image has its final name only when the storage has confirmed its size; whatever fails,
    nothing of it is left there.

    :raises: one of ``ipa_snapshot.errors``
    """
    began = time.monotonic()
    trust = trust or Trust()
    name, writer = writers.load(request.writer, request.location.scheme)
    LOG.info(
        "Taking a snapshot of %(device)s (%(bytes)d bytes) to %(url)s with the writer %(writer)s",
        {"device": device.name, "bytes": device.size, "url": request.location, "writer": name},
    )
    key = request.encrypt_for
    writers.check_options(name, request.bad_sectors, trust.insecure, key is not None)
    lost = LostSectors() if request.bad_sectors == "zero" else None
    listeners = [on_progress] if on_progress else []
    with (
        open_source(device.name, lost) as source,
        open_storage(request.location, request.credentials, trust) as storage,
        ProgressObject(storage, request.image_name) as shown,
        _StopWatch(storage, request.image_name, [shown, *listeners]) as watch,
    ):
        _check_size(device, source)
        meter = Meter(watch)
        meter.phase("prepare")
        storage.claim(request.image_name)
        with contextlib.ExitStack() as undo:
            undo.callback(storage.abandon, request.image_name)
            shown.begin()
            destination = writers.Destination(
                storage, storage.part(request.image_name), request.location, request.credentials,
                trust, key,
            )  # fmt: skip
            written = writer.write(source, destination, request.image, meter)
            meter.phase("publish", written.size)
            partitions = (
                written.used_map.partitions if written.used_map else list_partitions(source)
            )
            size = encrypted_size(written.size) if key else written.size
            with storage.patiently():
                storage.publish(request.image_name, size)
            undo.callback(storage.discard, manifest_name(request.image_name), request.image_name)
            result = SnapshotResult(
                request.image_name, device, name, written, tuple(partitions),
                time.monotonic() - began, lost.extents() if lost else Extents(), purpose,
                key,
            )  # fmt: skip
            shown.end()
            _write_manifest(storage, result)
            undo.pop_all()
    return result


def describe_path(path: str) -> BlockDevice:
    """Describe a device or an image file that is named by its path.

    :raises: DeviceNotFound, DeviceInUse, InvalidRequest
    """
    with open_source(path) as source:
        return BlockDevice(path, source.size, logical_sector_size=source.logical_sector_size)


def _write_manifest(storage: Storage, result: SnapshotResult) -> None:
    """Write the result beside the image, last of all: where it is, the image is whole."""
    manifest = json.dumps(result.to_wire(), indent=1).encode()
    name = result.image_name
    with storage.patiently():
        storage.remove(manifest_name(name))  # which held the progress
        storage.write_manifest(name, manifest)


def _check_size(device: BlockDevice, source: Source) -> None:
    if source.size != device.size:
        raise errors.DeviceNotFound(
            "%s has %d bytes, expected %d: it is not the disk that was chosen, or it changed"
            % (device.name, source.size, device.size)
        )


class _StopWatch:
    """Hands progress on, and ends the snapshot when the conductor's side asks for that.

    It asks by the object that :func:`snapshot_core.location.stop_name` names. That is looked for in
    a thread of its own while the ``with`` lasts, so that a storage which is slow to say whether it
    is there delays nothing.
    """

    def __init__(self, storage: Storage, image_name: str, listeners: Sequence[OnProgress]) -> None:
        self._storage = storage
        self._image_name = image_name
        self._listeners = listeners
        self._is_unwanted = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="snapshot-stop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        # What is looked into may be an export that is unmounted next; what hangs is left.
        self._thread.join(_MOST_S)

    def __call__(self, progress: Progress) -> None:
        for listener in self._listeners:
            listener(progress)
        if self._is_unwanted:
            raise errors.Cancelled("%s is not wanted any more" % self._image_name)

    def _watch(self) -> None:
        pause_s = _STOP_INTERVAL_S
        while not self._is_unwanted and not self._over.wait(pause_s):
            pause_s = _STOP_INTERVAL_S
            try:
                with self._storage.briefly():
                    self._is_unwanted = self._storage.exists(stop_name(self._image_name))
            except errors.SnapshotError as exc:
                LOG.debug("Not told whether to go on: %(reason)s", {"reason": exc})
                # Often a server that closes, just then, a connection which was idle for seconds.
                pause_s = min(1, _STOP_INTERVAL_S)
