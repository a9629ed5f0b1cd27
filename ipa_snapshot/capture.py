# SPDX-License-Identifier: Apache-2.0
"""Take a snapshot: from an open disk, through a writer, to a confirmed image in the storage."""

import json
import time
from dataclasses import dataclass
from typing import Any

from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.devices.partitions import Partition, list_partitions
from ipa_snapshot.devices.source import Source, open_source
from ipa_snapshot.request import SnapshotRequest
from ipa_snapshot.writers import base as writers
from snapshot_core.credentials import Trust
from snapshot_core.location import manifest_name, part_name, stop_name
from snapshot_core.progress import Meter, OnProgress, Progress
from snapshot_core.storage import open_storage
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

_STOP_INTERVAL_S = 5


@dataclass(frozen=True)
class SnapshotResult:
    """A snapshot that is in the storage, whole and under its final name; sizes in bytes."""

    image_name: str
    device: BlockDevice
    writer: str
    written: writers.Written
    partitions: tuple[Partition, ...]
    elapsed_s: float

    def to_wire(self) -> dict[str, Any]:
        """Return the result of the agent's command, which is the manifest beside the image."""
        used_map = self.written.used_map
        return {
            "image_name": self.image_name,
            "disk_format": self.written.disk_format,
            "virtual_size": self.device.size,
            "size": self.written.size,
            "checksum": {"algorithm": "sha512", "value": self.written.sha512},
            "device": self.device.to_wire(),
            # A writer that knows no free blocks takes all for used.
            "used": used_map.extents.total if used_map else self.device.size,
            "bytes_read": self.written.bytes_read,
            "bytes_sent": self.written.bytes_sent,
            "writer": self.writer,
            "compression": self.written.compression,
            "partitions": [partition.to_wire() for partition in self.partitions],
            "warnings": list(used_map.warnings) if used_map else [],
            "elapsed_s": round(self.elapsed_s, 3),
        }


def take_snapshot(
    request: SnapshotRequest,
    device: BlockDevice,
    trust: Trust | None = None,
    on_progress: OnProgress | None = None,
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
    with (
        open_source(device.name) as source,
        open_storage(request.location, request.credentials, trust) as storage,
    ):
        _check_size(device, source)
        meter = Meter(_StopWatch(storage, request.image_name, on_progress))
        meter.phase("prepare")
        storage.claim(request.image_name)
        destination = writers.Destination(
            storage, part_name(request.image_name), request.location, request.credentials, trust
        )
        try:
            written = writer.write(source, destination, request.image, meter)
            meter.phase("publish", written.size)
            partitions = (
                written.used_map.partitions if written.used_map else list_partitions(source)
            )
            storage.publish(request.image_name, written.size)
        except BaseException:
            storage.discard(destination.part)
            raise
        result = SnapshotResult(
            request.image_name, device, name, written, tuple(partitions), time.monotonic() - began
        )
        _write_manifest(storage, result)
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
    part, name = part_name(result.image_name), manifest_name(result.image_name)
    try:
        storage.write(part, [manifest], len(manifest))
        storage.rename(part, name)
    except BaseException:
        storage.discard(part, name, result.image_name)
        raise


def _check_size(device: BlockDevice, source: Source) -> None:
    if source.size != device.size:
        raise errors.DeviceNotFound(
            "%s has %d bytes, expected %d: it is not the disk that was chosen, or it changed"
            % (device.name, source.size, device.size)
        )


class _StopWatch:
    """Hands progress on, and ends the snapshot when the conductor's side asks for that.

    It asks by the object that :func:`snapshot_core.location.stop_name` names.
    """

    def __init__(self, storage: Storage, image_name: str, on_progress: OnProgress | None) -> None:
        self._storage = storage
        self._image_name = image_name
        self._on_progress = on_progress
        self._asked = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)
        if time.monotonic() - self._asked >= _STOP_INTERVAL_S:
            self._asked = time.monotonic()
            if self._is_unwanted():
                raise errors.Cancelled("%s is not wanted any more" % self._image_name)

    def _is_unwanted(self) -> bool:
        try:
            return self._storage.size(stop_name(self._image_name)) is not None
        except errors.StorageUnavailable as exc:
            LOG.debug("Not told whether to go on: %(reason)s", {"reason": exc})
            return False
