# SPDX-License-Identifier: Apache-2.0
"""Where the conductor takes snapshots itself: only ask, and wait.

A node whose vendor interface is called ``snapshot`` offers the service steps ``snapshot``, which
captures and uploads on the conductor's side, and ``upload_snapshot``, which uploads again. One with
a ``snapshot_interface``, where Ironic knows that, has the specification's verb.
"""

from dataclasses import dataclass
from typing import Any

from conductor_client import errors, states
from conductor_client.agent import Captured
from conductor_client.delivery import CaptureOptions
from conductor_client.ironic.image_access import Image
from conductor_client.ironic.record import Phase
from conductor_client.node import Node, Provision, Record
from conductor_client.provision import VERB_VERSION, ServiceStep, Verb
from conductor_client.ramdisk_step import options_to_wire
from conductor_client.reasons import was_aborted
from conductor_client.service import STEP, UPLOAD_STEP, Service
from snapshot_core.progress import Progress

_INTERFACE = "snapshot"
_AT_WORK = (Phase.REQUESTED, Phase.STARTING, Phase.CAPTURING, Phase.UPLOADING)


def is_offered(record: Record) -> bool:
    """Tell whether the conductor itself takes snapshots of this node."""
    return record.vendor_interface == _INTERFACE


def keeps(record: Record, image_name: str) -> bool:
    """Tell whether the conductor has kept this captured image for another upload.

    Where this account is not shown that, it is taken for granted.
    """
    if not is_offered(record) or record.steps is None:
        return is_offered(record)
    kept = record.snapshot
    if kept is None or kept.image_name != image_name:
        return False
    # An aborted upload leaves it at that.
    return kept.phase in (Phase.KEPT, Phase.UPLOADING)


@dataclass(frozen=True)
class Way:
    """Who takes a snapshot of a node, or uploads what was captured.

    :ivar record: the node, as it was when that was decided.
    :ivar asked: what the conductor is to be asked for; None: this side uploads.
    """

    record: Record
    asked: Provision | None


def snapshot_way(node: Node, image_ref: str, options: CaptureOptions) -> Way:
    """Return who takes a snapshot of a node.

    The verb has no options, and does not lead out of a service that failed.

    :raises: InvalidRequest, NodeNotReady, IronicUnavailable
    """
    record = node.read()
    arguments = options_to_wire(options)
    by_verb = not arguments and record.provision_state != states.SERVICE_FAILED
    if by_verb and node.has_interface(_INTERFACE, VERB_VERSION):
        return Way(record, Verb(image_ref))
    if is_offered(record):
        return Way(record, _vendor_step(STEP, image_ref=image_ref, **arguments))
    return Way(record, None)


def upload_way(node: Node, image_name: str, image_ref: str) -> Way:
    """Return who uploads a captured image: the conductor what it has kept, and without a ramdisk.

    :raises: NodeNotReady, IronicUnavailable
    """
    record = node.read()
    kept = keeps(record, image_name)
    return Way(record, _vendor_step(UPLOAD_STEP, image_ref=image_ref) if kept else None)


def _vendor_step(name: str, **arguments: Any) -> ServiceStep:
    return ServiceStep({"interface": "vendor", "step": name, "args": arguments})


def run(
    service: Service,
    connection: Any,
    image_ref: str,
    *,
    wait: bool,
    captured: Captured | None = None,
) -> list[str]:
    """Start the service, and wait until it is over; return what went wrong with the way back.

    :param wait: else return as soon as it is started.
    :param captured: what the conductor has kept; the image may have received it already.
    :raises: one of ``conductor_client.errors``
    """
    image = _read(connection, image_ref)
    service.check()
    # The conductor refuses these too, when the instance is down.
    image.check_access(service.before.projects)
    if captured is None or image.takes(captured.sha512):
        image.check_queued()
    service.start()
    if not wait:
        return []

    expected = captured

    def arrived(record: Record) -> bool:
        nonlocal expected
        snapshot = record.snapshot
        if snapshot and snapshot.image_ref == image_ref and snapshot.phase in _AT_WORK:
            service.tell(Progress(snapshot.phase.value))
            expected = snapshot.captured or expected
        # A node is active after an abort, too; and a lessee is not shown what Ironic says of that.
        done = record.free and record.provision_state == states.ACTIVE
        return done and not was_aborted(record) and _is_there(connection, image_ref, expected)

    try:
        service.watch(arrived)
    except errors.IronicUnavailable as exc:
        if service.is_over:
            raise
        raise errors.NodeGoesOn(
            "%s; the conductor may go on, and then it uploads the image by itself" % exc
        ) from exc
    return service.come_back(finishing=True)


def _is_there(connection: Any, image_ref: str, expected: Captured | None) -> bool:
    """Tell whether the image has data, and not somebody else's as far as that can be told."""
    image = _read(connection, image_ref)
    # The data of a raw image may have been converted on their way.
    is_known = expected is not None and expected.disk_format == "qcow2" and image.sha512
    is_other = is_known and expected is not None and expected.sha512 != image.sha512
    return image.status == "active" and not is_other


def _read(connection: Any, image_ref: str) -> Image:
    try:
        return Image.read(connection, image_ref)
    except errors.InvalidRequest as exc:
        raise errors.InvalidRequest(
            "the conductor's plug-in takes the UUID of an image in Glance: %s" % exc
        ) from exc
