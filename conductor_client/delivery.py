# SPDX-License-Identifier: Apache-2.0
"""A snapshot from the first check to the last clean-up, whichever way the image is captured."""

import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from oslo_log import log

from conductor_client import errors
from conductor_client.agent import Captured
from conductor_client.convert import converted
from conductor_client.images import ImageFacts, ImageTarget
from conductor_client.verified import VerifiedImage
from snapshot_core.encryption import PrivateKey
from snapshot_core.location import manifest_name, part_name
from snapshot_core.progress import Meter, OnProgress
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

TIMEOUT_S = 24 * 3600


@dataclass(frozen=True)
class Snapshot:
    """A finished snapshot; sizes in bytes. ``sha512`` is that of the image at ``image_ref``."""

    image_ref: str
    disk_format: str
    size: int
    sha512: str
    captured: Captured
    warnings: tuple[str, ...]
    elapsed_s: float

    def to_wire(self) -> dict[str, Any]:
        """Return what ``ironic-snapshot take --json`` prints."""
        return {
            "image_ref": self.image_ref,
            "disk_format": self.disk_format,
            "size": self.size,
            "virtual_size": self.captured.virtual_size,
            "checksum": {"algorithm": "sha512", "value": self.sha512},
            "captured": dict(self.captured.raw),
            "warnings": list(self.warnings),
            "elapsed_s": round(self.elapsed_s, 3),
        }


@dataclass(frozen=True)
class CaptureOptions:
    """What the machine's side is asked for, beyond where the image goes.

    :ivar encrypt_for: the public key of whoever alone is to be able to read the image in the
        storage, see :class:`.PublicKey`.
    """

    writer: str = "auto"
    image_format: str = "qcow2"
    compression: str = "auto"
    expected_serial: str | None = None
    expected_wwn: str | None = None
    any_root: bool = False
    bad_sectors: str = "fail"
    encrypt_for: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the options of the agent's command."""
        return {key: value for key, value in vars(self).items() if value is not None}


def encrypting(options: CaptureOptions, key: PrivateKey | None) -> CaptureOptions:
    """Return the options with which an image is encrypted for the holder of ``key``."""
    return replace(options, encrypt_for=str(key.public)) if key else options


@dataclass(frozen=True)
class Order:
    """Where one image goes: in the ``storage`` by its ``name``, and from there to the ``target``.

    :param name: may have the collection before it that the image is in.
    :param keep_for_retry: an image that was captured and could not be delivered stays in the
        storage; else it is removed.
    :param key: decrypts an image that is encrypted in the storage.
    """

    storage: Storage
    name: str
    image_ref: str
    target: ImageTarget
    image_format: str
    work_dir: str | None = None
    on_progress: OnProgress | None = None
    keep_for_retry: bool = False
    key: PrivateKey | None = None

    @property
    def image_name(self) -> str:
        """The image's name in its own collection."""
        return PurePosixPath(self.name).name


class Capture(ABC):
    """A way to get the image of a machine's disk into the storage."""

    @abstractmethod
    def check(self) -> None:
        """Raise one of our errors unless the capture can work; nothing is started."""

    @abstractmethod
    def run(self) -> Captured:
        """Capture the image."""

    def may_go_on(self) -> bool:
        """Tell whether a machine may still write to the storage, after an error or interrupt.

        Then nothing is removed there.
        """
        return False

    def finish(self) -> list[str]:
        """Wait until the machine is as it was; log and return what went wrong with that.

        This is after the delivery, so that the two overlap; called if that failed, too.
        """
        return []


def take(capture: Capture, order: Order) -> Snapshot:
    """Capture an image and deliver it; everything is checked before anything is started.

    When it fails, the intermediate image is gone, save where the order says that it is kept, and
    the target still waits for data.

    :raises: one of ``conductor_client.errors``
    """
    began = time.monotonic()
    order.target.check()
    capture.check()
    with _intermediate_image(order, capture.may_go_on) as warnings:
        captured = capture.run()
        check_captured(captured, order.image_name, str(order.key.public) if order.key else None)
        try:
            snapshot = deliver(order, captured)
        except Exception:
            capture.finish()
            raise
        warnings.extend(capture.finish())
    elapsed_s = time.monotonic() - began
    return replace(snapshot, warnings=tuple(warnings), elapsed_s=elapsed_s)


def take_captured(captured: Captured, order: Order) -> Snapshot:
    """Deliver an image that was captured before, as :func:`take` does after the capture.

    If the target holds it already, the intermediate image is removed, and nothing else done.
    """
    began = time.monotonic()
    is_there = order.target.holds(captured.sha512)
    if not is_there:
        order.target.check()
    with _intermediate_image(order, lambda: True) as warnings:
        snapshot = _delivered(order, captured) if is_there else deliver(order, captured)
    elapsed_s = time.monotonic() - began
    return replace(snapshot, warnings=tuple(warnings), elapsed_s=elapsed_s)


def check_captured(captured: Captured, image_name: str, encrypt_for: str | None) -> None:
    """Make sure that a machine made the image that was asked for.

    :param encrypt_for: the public key for which it was to be encrypted.
    :raises: CommandFailed
    """
    if captured.image_name != image_name:
        raise errors.CommandFailed("an unusable result", "it is about another image")
    encrypted_for = str(captured.encrypted_for) if captured.encrypted_for else None
    if encrypted_for != encrypt_for:
        raise errors.CommandFailed(
            "an unusable result", "the image was not encrypted as it was asked for"
        )


def deliver(order: Order, captured: Captured) -> Snapshot:
    """Verify the image in the storage, on its way to the target.

    :raises: UploadFailed, StorageMismatch, StorageUnavailable, ImageNotQueued, InvalidRequest,
        CommandFailed
    """
    meter = Meter(order.on_progress)
    image = VerifiedImage(
        order.storage, order.name, captured.size, captured.sha512,
        meter=meter, key=_key(order, captured),
    )  # fmt: skip
    try:
        with _in_format(image, captured, order, meter) as (final, disk_format):
            meter.phase("upload", final.size)
            facts = ImageFacts(disk_format, captured.virtual_size, captured.lost)
            order.target.store(final, facts)
    except (errors.UploadFailed, errors.ImageNotQueued, errors.StorageUnavailable) as exc:
        if order.keep_for_retry:
            raise _Kept(
                "%s; the captured image is kept as %s: upload it with --image %s --resume %s"
                % (
                    exc,
                    order.storage.describe(order.name),
                    order.image_ref,
                    order.image_name,
                )
            ) from exc
        raise
    return Snapshot(order.image_ref, disk_format, final.size, final.sha512, captured, (), 0)


def _key(order: Order, captured: Captured) -> PrivateKey | None:
    needed = captured.encrypted_for
    if needed is None:
        return None
    if order.key is None or order.key.public != needed:
        raise errors.InvalidRequest(
            "%s is encrypted for the public key %s: give the file of its private key"
            % (order.storage.describe(order.name), needed)
        )
    return order.key


def _delivered(order: Order, captured: Captured) -> Snapshot:
    return Snapshot(
        order.image_ref, captured.disk_format, captured.size, captured.sha512, captured, (), 0
    )


def new_image_name(image_format: str) -> str:
    """Return a name for an intermediate image that nobody can guess."""
    return "%s-snapshot.%s" % (uuid.uuid4(), image_format)


def check_storage(storage: Storage, name: str) -> None:
    """Prove that this side can write, rename and remove in the storage.

    :raises: InvalidRequest, StorageUnavailable, WriteFailed
    """
    # The machine claims the name itself, when it starts.
    storage.claim(name)
    storage.remove(part_name(name))


class _Kept(errors.UploadFailed):
    """The image could not be delivered, and stays in the storage for a retry."""

    kept = True


@contextlib.contextmanager
def _intermediate_image(order: Order, may_go_on: Callable[[], bool]) -> Iterator[list[str]]:
    """Remove the intermediate image in the end, unless it is kept, or still being made.

    Yields the list of warnings: after a success, an image that cannot be removed is one.
    """
    storage, name = order.storage, order.name
    warnings: list[str] = []
    try:
        yield warnings
    except _Kept:
        raise
    except BaseException as exc:
        if may_go_on():
            if isinstance(exc, errors.IronicUnavailable):
                raise errors.NodeGoesOn(
                    "%s; the node may go on, and then its image will be %s: upload that with "
                    "--image %s --resume %s"
                    % (exc, storage.describe(name), order.image_ref, order.image_name)
                ) from exc
            LOG.warning("%(where)s stays, for now", {"where": storage.describe(name)})
        elif storage.discard(name, manifest_name(name)):
            # Last: where nothing is renamed, an image without it beside passes for whole.
            storage.discard(part_name(name))
        raise
    try:
        storage.remove(name)
        storage.remove(manifest_name(name))
    except errors.SnapshotError as exc:
        warnings.append("the intermediate image is left behind: %s" % exc)
        LOG.warning(warnings[-1])


@contextlib.contextmanager
def _in_format(
    image: VerifiedImage, captured: Captured, order: Order, meter: Meter
) -> Iterator[tuple[VerifiedImage, str]]:
    if captured.disk_format == order.image_format:
        yield image, captured.disk_format
    elif captured.disk_format == "raw":
        LOG.info("Converting the raw image to qcow2")
        with converted(image, order.work_dir, meter) as final:
            yield final, "qcow2"
    else:
        raise errors.CommandFailed("an unusable result", "the image is %s" % captured.disk_format)
