# SPDX-License-Identifier: Apache-2.0
"""Whether a node's snapshot may go into an image: its state, its owner and who sees it.

The conductor uploads with rights of its own, so what Glance would refuse to the requester has to be
refused here.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import openstack.exceptions
from keystoneauth1 import exceptions as keystone_exceptions

from conductor_client import errors

# What Keystone answers to credentials that it does not accept; 404 to a token that has expired.
REFUSALS = (keystone_exceptions.Unauthorized, keystone_exceptions.NotFound)
_GLANCE_ERRORS = (openstack.exceptions.SDKException, keystone_exceptions.ClientException)
# Those of `community` and `public` images are seen by every project.
_VISIBILITIES = ("private", "shared")


class NotYet(errors.SnapshotError):
    """Somebody's data is on its way into the image: what comes of it shows a little later."""


@dataclass(frozen=True)
class Image:
    """What Glance tells of an image; ``sha512`` of its data, if it has any and says so."""

    id: str
    status: str
    owner: str | None
    visibility: str
    sha512: str | None

    @classmethod
    def read(cls, connection: Any, image_ref: object) -> "Image":
        """Ask Glance.

        :raises: InvalidRequest, ImageNotQueued, UploadFailed
        """
        try:
            image_id = str(UUID(str(image_ref)))
        except ValueError as exc:
            raise errors.InvalidRequest(
                "the image_ref %r is not an image's UUID" % (image_ref,)
            ) from exc
        try:
            found = connection.image.get_image(image_id)
        except openstack.exceptions.NotFoundException as exc:
            raise errors.ImageNotQueued(
                "there is no image %s in Glance: create it first, without data" % image_id
            ) from exc
        except _GLANCE_ERRORS as exc:
            raise errors.UploadFailed(
                "Glance does not tell of image %s: %s" % (image_id, exc)
            ) from exc
        sha512 = found.hash_value if found.hash_algo == "sha512" else None
        return cls(image_id, found.status, found.owner, found.visibility, sha512)

    def check_access(self, projects: Collection[str]) -> None:
        """Make sure that the image belongs to one of the node's ``projects``, and is not for all.

        :raises: InvalidRequest
        """
        if self.owner is None or self.owner not in projects:
            raise errors.InvalidRequest(
                "the image %s belongs to the project %s, expected the node's owner, its lessee or "
                "the instance's project (%s)"
                % (self.id, self.owner, ", ".join(sorted(projects)) or "the node has none of them")
            )
        if self.visibility not in _VISIBILITIES:
            raise errors.InvalidRequest(
                "the image %s is %s, expected %s: every project would see the disk"
                % (self.id, self.visibility, " or ".join(_VISIBILITIES))
            )

    def check_queued(self) -> None:
        """Make sure that the image waits for data.

        :raises: ImageNotQueued
        """
        if self.status != "queued":
            raise errors.ImageNotQueued(
                "the image %s is %s, expected queued: create a new one, without data"
                % (self.id, self.status)
            )

    def takes(self, sha512: str) -> bool:
        """Tell whether data of this digest is to be sent: False if the image holds it already.

        :raises: ImageNotQueued, NotYet
        """
        # A conductor that went away during its upload leaves this, and what comes of it is
        # known as soon as Glance has noticed.
        if self.status in ("saving", "importing"):
            raise NotYet("the image %s is %s" % (self.id, self.status))
        if self.status == "active" and self.sha512 == sha512:
            return False
        self.check_queued()
        return True


def projects_of(owner: str | None, lessee: str | None, instance_project: object) -> frozenset[str]:
    """Return the projects whose images a node's snapshot may go into."""
    # A lessee may write into the instance's information what it likes: any project.
    trusted = (owner, lessee) if lessee else (owner, instance_project)
    return frozenset(project for project in trusted if project and isinstance(project, str))
