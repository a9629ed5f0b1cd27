# SPDX-License-Identifier: Apache-2.0
"""Capture an image by the service step of the ramdisk: the conductor needs no plug-in."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from conductor_client import errors
from conductor_client.agent import Captured
from conductor_client.delivery import Capture, CaptureOptions, check_storage
from conductor_client.service import STEP, Service
from snapshot_core.location import manifest_name
from snapshot_core.progress import OnProgress, Progress
from snapshot_core.storage.base import Storage

#: The phase that is told of once the image is in the storage.
CAPTURED = "captured"
_MANIFEST_LIMIT = 1024 * 1024
# What the step of an older ramdisk does not know is sent only where it was asked for.
_STEP_OPTIONS = (
    "writer", "image_format", "compression", "bad_sectors", "expected_serial", "expected_wwn",
    "encrypt_for",
)  # fmt: skip


class ServiceCapture(Capture):
    """The image arrives in the storage by the ramdisk's step, with its manifest beside it.

    :param name: that of the image in the storage, with the node's collection before it.
    """

    def __init__(
        self,
        service: Service,
        storage: Storage,
        name: str,
        on_progress: OnProgress | None,
    ) -> None:
        self._service = service
        self._storage = storage
        self._name = name
        self._tell = on_progress or (lambda progress: None)
        self._captured: Captured | None = None

    def check(self) -> None:
        """See :meth:`.Capture.check`."""
        self._service.check()
        # Not in the node's collection, which the machine makes: it is to be its own.
        check_storage(self._storage, PurePosixPath(self._name).name)

    def run(self) -> Captured:
        """See :meth:`.Capture.run`."""
        self._service.start()
        self._service.watch(lambda record: self._look())
        if self._captured is None:
            raise AssertionError("watch() returned without an image")
        # The ramdisk's own phases may have the names of those that come now.
        self._tell(Progress(CAPTURED))
        return self._captured

    def may_go_on(self) -> bool:
        """See :meth:`.Capture.may_go_on`."""
        return not self._service.is_over

    def finish(self) -> list[str]:
        """See :meth:`.Capture.finish`."""
        return self._service.come_back(finishing=True)

    def _look(self) -> bool:
        """Look at the object beside the image: the progress, and in the end the manifest."""
        found = read_manifest(self._storage, self._name)
        if "progress" in found:
            if progress := Progress.parse(found["progress"]):
                self._tell(progress)
        elif found:
            self._captured = Captured.parse(found)
        return self._captured is not None


def step(
    image_name: str,
    options: CaptureOptions,
    image_ref: str | None = None,
    keep_s: int | None = None,
) -> dict[str, Any]:
    """Return the ramdisk's service step, which stores an image under ``image_name``.

    :param image_ref: where the image is to go, for its manifest.
    :param keep_s: how long it may wait in the storage, in seconds, for its manifest.
    :raises: InvalidRequest
    """
    if keep_s is not None and keep_s <= 0:
        raise errors.InvalidRequest("an image can be kept for a number of seconds above 0")
    purpose = {"image_ref": image_ref, "keep_s": keep_s}
    arguments = {
        "image_name": image_name,
        **{key: value for key, value in purpose.items() if value is not None},
        **options_to_wire(options),
    }
    return {"interface": "deploy", "step": STEP, "args": arguments}


def options_to_wire(options: CaptureOptions) -> dict[str, Any]:
    """Return the arguments of a step that differ from its defaults.

    :raises: InvalidRequest for options that a step does not take.
    """
    given, default = vars(options), vars(CaptureOptions())
    changed = {key: value for key, value in given.items() if value != default[key]}
    if unknown := set(changed) - set(_STEP_OPTIONS):
        raise errors.InvalidRequest("a service step does not take %s" % ", ".join(sorted(unknown)))
    return changed


def read_manifest(storage: Storage, name: str) -> Mapping[str, Any]:
    """Return what is beside the image ``name``; empty if that is nothing, or not whole yet.

    :raises: StorageUnavailable
    """
    manifest = manifest_name(name)
    size = storage.size(manifest)
    if not size or size > _MANIFEST_LIMIT:
        return {}
    content = bytearray()
    with storage.read(manifest) as chunks:
        for chunk in chunks:
            content += chunk
            if len(content) > _MANIFEST_LIMIT:
                return {}
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}
