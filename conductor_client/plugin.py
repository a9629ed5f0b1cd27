# SPDX-License-Identifier: Apache-2.0
"""Where the conductor has the plug-in: only ask, and wait.

A node whose vendor interface is called ``snapshot`` offers the service step ``snapshot`` with the
argument ``image_ref``, which captures and uploads on the conductor's side.
"""

from typing import Any

from conductor_client import errors, states
from conductor_client.delivery import CaptureOptions
from conductor_client.images import GlanceImage, ImageTarget
from conductor_client.node import Record
from conductor_client.ramdisk_step import options_to_wire
from conductor_client.service import STEP, Service

_INTERFACE = "snapshot"


def is_offered(record: Record) -> bool:
    """Tell whether the conductor itself takes snapshots of this node."""
    return record.vendor_interface == _INTERFACE


def step(image_ref: str, options: CaptureOptions) -> dict[str, Any]:
    """Return the plug-in's service step."""
    arguments = {"image_ref": image_ref, **options_to_wire(options)}
    return {"interface": "vendor", "step": STEP, "args": arguments}


def run(service: Service, target: ImageTarget, *, wait: bool) -> list[str]:
    """Start the service, and wait until it is over; return what went wrong with the way back.

    :param wait: else return as soon as it is started.
    :raises: one of ``conductor_client.errors``
    """
    if not isinstance(target, GlanceImage):
        raise errors.InvalidRequest("the conductor's plug-in takes the UUID of an image in Glance")
    target.check()
    service.check()
    service.start()
    if not wait:
        return []
    # A node is active after an abort, too; and a lessee is not shown what Ironic says of that.
    service.watch(
        lambda record: (
            record.free and record.provision_state == states.ACTIVE and target.status() == "active"
        )
    )
    return service.come_back(finishing=True)
