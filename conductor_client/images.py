# SPDX-License-Identifier: Apache-2.0
"""Where the finished image goes: a queued Glance image, or a file for standalone use."""

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import openstack
import openstack.exceptions
from keystoneauth1 import exceptions as keystone_exceptions
from oslo_log import log

from conductor_client import errors
from conductor_client.ironic.image_access import REFUSALS
from conductor_client.verified import VerifiedImage
from snapshot_core.location import Location, part_name
from snapshot_core.storage.directory import DirectoryStorage

LOG = log.getLogger(__name__)

_GIB = 1024**3
# How long Glance may take to notice that a request broke off, or to finish one whose answer
# was lost.
_SETTLE_S = 60
_GLANCE_ERRORS = (
    openstack.exceptions.SDKException,
    keystone_exceptions.ClientException,
)


@dataclass(frozen=True)
class ImageFacts:
    """What is told of the image; ``virtual_size``, and ``lost`` of it, in bytes."""

    disk_format: str
    virtual_size: int
    lost: int = 0


class ImageTarget(ABC):
    """A place for one image."""

    @abstractmethod
    def check(self) -> None:
        """Raise ImageNotQueued, or InvalidRequest, unless the place waits for data."""

    def holds(self, sha512: str) -> bool:
        """Tell whether data of this digest came here already: its confirmation can be lost.

        :raises: ImageNotQueued, UploadFailed
        """
        return False

    @abstractmethod
    def store(self, image: VerifiedImage, facts: ImageFacts) -> None:
        """Store the image; if that fails, the place waits for data as before.

        :raises: UploadFailed, StorageMismatch, StorageUnavailable, ImageNotQueued
        """


class GlanceImage(ImageTarget):
    """An image in Glance that was created beforehand and has no data yet."""

    def __init__(self, image_id: str, connection: "openstack.connection.Connection") -> None:
        self._id = image_id
        self._glance = connection.image

    def check(self) -> None:
        """See :meth:`.ImageTarget.check`."""
        self._queued()

    def _queued(self) -> Any:
        found = self._found()
        if found.status != "queued":
            raise errors.ImageNotQueued(
                "the image %s is %s, expected queued: create a new one, without data"
                % (self._id, found.status)
            )
        return found

    def status(self) -> str:
        """Return Glance's status of the image: ``queued``, ``active``.

        :raises: ImageNotQueued when there is none, UploadFailed when Glance does not tell
        """
        return str(self._found().status)

    def holds(self, sha512: str) -> bool:
        """See :meth:`.ImageTarget.holds`."""
        found = self._found()
        return (found.status, found.hash_algo, found.hash_value) == ("active", "sha512", sha512)

    def _found(self) -> Any:
        try:
            return self._glance.get_image(self._id)
        except openstack.exceptions.NotFoundException as exc:
            raise errors.ImageNotQueued(
                "there is no image %s in Glance, or this project does not see it: create it "
                "first, without data" % self._id
            ) from exc
        except _GLANCE_ERRORS as exc:
            raise errors.UploadFailed(
                "Glance does not tell of image %s: %s" % (self._id, exc)
            ) from exc

    def discard(self) -> None:
        """Delete the image if it still waits for data; never raise, but log what remains."""
        try:
            status = self.status()
        except errors.SnapshotError as exc:
            status = str(exc)
        if status == "queued":
            LOG.info("Image %(id)s, %(how)s", {"id": self._id, "how": self._delete()})
        else:
            LOG.warning("Image %(id)s is not deleted: %(why)s", {"id": self._id, "why": status})

    def store(self, image: VerifiedImage, facts: ImageFacts) -> None:
        """See :meth:`.ImageTarget.store`."""
        found = self._queued()
        try:
            self._describe(facts, found.properties or {})
            is_stored = self._put(image)
        except errors.SnapshotError:
            # A request that is broken off before its last block takes Glance back to queued.
            self._settle()
            raise
        self._confirm(image, is_ours=is_stored or image.is_sent)

    def _describe(self, facts: ImageFacts, before: Mapping[str, Any]) -> None:
        try:
            self._glance.update_image(
                self._id,
                disk_format=facts.disk_format,
                container_format="bare",
                min_disk=-(-facts.virtual_size // _GIB),
                # Nova tells by it a backup from a snapshot.
                image_type=before.get("image_type", "snapshot"),
                **({"snapshot_lost_bytes": str(facts.lost)} if facts.lost else {}),
            )
        except _GLANCE_ERRORS as exc:
            raise errors.UploadFailed(
                "Glance does not let the properties of image %s be set: %s" % (self._id, exc)
            ) from exc

    def _put(self, image: VerifiedImage) -> bool:
        """Send the data; return False if Glance has some, and has not said that it took these."""
        try:
            answer = self._glance.put(
                "/images/%s/file" % self._id,
                data=image,
                headers={
                    "Content-Type": "application/octet-stream",
                    # Glance checks it, and the quota before it takes any data.
                    "x-openstack-image-size": str(image.size),
                },
                raise_exc=False,
                # Glance has part of it; openstacksdk 4.0 would send it again at once.
                connect_retries=0,
            )
        except _GLANCE_ERRORS as exc:
            if self._settle() != "active":
                raise errors.UploadFailed(
                    "the upload of image %s broke off: %s" % (self._id, exc)
                ) from exc
            return False
        if answer.status_code != 204:
            raise errors.UploadFailed(
                "Glance answered %d to the data of image %s: %s"
                % (answer.status_code, self._id, _reason(answer))
            )
        return True

    def _settle(self) -> str:
        """Wait until Glance is done with a request that broke off; return the status."""
        deadline = time.monotonic() + _SETTLE_S
        status = "unknown"
        while time.monotonic() < deadline:
            try:
                status = self._glance.get_image(self._id).status
            except REFUSALS as exc:
                LOG.warning("Glance is not asked any more: %(reason)s", {"reason": exc})
                break
            except _GLANCE_ERRORS as exc:
                LOG.warning("Glance does not answer: %(reason)s", {"reason": exc})
            if status in ("queued", "active"):
                break
            time.sleep(0.5)
        LOG.info("Image %(id)s is %(status)s", {"id": self._id, "status": status})
        return status

    def _confirm(self, image: VerifiedImage, *, is_ours: bool) -> None:
        self._settle()
        try:
            found = self._glance.get_image(self._id)
        except _GLANCE_ERRORS as exc:
            raise errors.UploadFailed(
                "Glance does not confirm image %s: %s" % (self._id, exc)
            ) from exc
        digest = found.hash_value if found.hash_algo == "sha512" else image.sha512
        if (found.status, found.size, digest) == ("active", image.size, image.sha512):
            return
        if not is_ours:
            raise errors.ImageNotQueued(
                "the image %s was given other data meanwhile: create a new one, without data"
                % self._id
            )
        raise errors.StorageMismatch(
            "Glance's image %s (%s)" % (self._id, self._delete()),
            "active, %d bytes, sha512 %s" % (image.size, image.sha512),
            "%s, %s bytes, %s %s" % (found.status, found.size, found.hash_algo, found.hash_value),
        )

    def _delete(self) -> str:
        try:
            self._glance.delete_image(self._id)
        except _GLANCE_ERRORS as exc:
            LOG.error("Image %(id)s is wrong, delete it: %(why)s", {"id": self._id, "why": exc})
            return "which could not be deleted, so delete it"
        return "now deleted"


class ImageFile(ImageTarget):
    """A file on this machine; it has its name only when it is whole and verified."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = DirectoryStorage(path.parent, str(path.parent))

    def check(self) -> None:
        """See :meth:`.ImageTarget.check`."""
        self._directory.claim(self._path.name)
        self._directory.remove(part_name(self._path.name))

    def store(self, image: VerifiedImage, facts: ImageFacts) -> None:
        """See :meth:`.ImageTarget.store`."""
        part = part_name(self._path.name)
        self._directory.claim(self._path.name)
        try:
            self._directory.write(part, image, image.size)
            self._directory.publish(self._path.name, image.size)
        except errors.WriteFailed as exc:
            self._directory.discard(part)
            raise errors.UploadFailed(str(exc)) from exc
        except BaseException:
            self._directory.discard(part)
            raise


@contextlib.contextmanager
def queued_image(connection: Any, name: str, properties: Mapping[str, str]) -> Iterator[str]:
    """Make an image without data and yield its UUID; it goes again if nothing comes of it.

    It stays after an interrupt, after an error that leaves its data for another try, and when it
    has received data all the same.

    :raises: UploadFailed
    """
    try:
        image_id = connection.image.create_image(
            name=name, allow_duplicates=True, visibility="private", **properties
        ).id
    except _GLANCE_ERRORS as exc:
        raise errors.UploadFailed("Glance does not make the image %s: %s" % (name, exc)) from exc
    try:
        yield image_id
    except Exception as exc:
        if not getattr(exc, "kept", False):
            GlanceImage(image_id, connection).discard()
        raise


def parse_image_ref(image_ref: str, connection: Any = None) -> ImageTarget:
    """Return the place that ``image_ref`` names: a Glance image's UUID, or ``file:///path``.

    :param connection: an ``openstack.connection.Connection``; by default one from the
        environment (``OS_*``, ``clouds.yaml``).
    :raises: InvalidRequest, UploadFailed
    """
    if image_ref.startswith("file:"):
        path = Path(Location.parse(image_ref).path)
        if path.name == "" or os.path.isdir(path):
            raise errors.InvalidRequest("%s must name a file that does not exist yet" % image_ref)
        return ImageFile(path)
    try:
        image_id = str(UUID(image_ref))
    except ValueError as exc:
        raise errors.InvalidRequest(
            "the image reference %r is neither an image's UUID nor file:///path" % image_ref
        ) from exc
    try:
        return GlanceImage(image_id, connection or openstack.connect())
    except _GLANCE_ERRORS as exc:
        raise errors.UploadFailed(
            "no connection to OpenStack: %s; set OS_CLOUD, or OS_AUTH_URL and what goes with it"
            % exc
        ) from exc


def _reason(answer: Any) -> str:
    advice = {
        401: "the credentials are not accepted",
        403: "the project may not upload to this image",
        409: "the image is not queued any more",
        413: "a quota, or the space of Glance's store, is exceeded",
        415: "Glance found another format in the data than the image's disk_format",
        503: "the store does not take data",
    }
    return advice.get(answer.status_code, "see Glance's log")
