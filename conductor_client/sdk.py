# SPDX-License-Identifier: Apache-2.0
"""Snapshots of nodes through Ironic, for Python with an ``openstack.connection.Connection``.

>>> import openstack
>>> from conductor_client import sdk
>>> connection = openstack.connect(cloud="mycloud")  # doctest: +SKIP
>>> storage = sdk.StorageAccess.of("https://storage/snapshots", "auth.yaml")  # doctest: +SKIP
>>> image = connection.image.create_image(name="node-1")  # doctest: +SKIP
>>> sdk.snapshot_node(connection, "node-1", image=image.id, storage=storage)  # doctest: +SKIP
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conductor_client import delivery, errors, plugin, states
from conductor_client.access import StorageAccess
from conductor_client.agent import Captured
from conductor_client.collection import remove_if_empty
from conductor_client.delivery import CaptureOptions, Order, Snapshot
from conductor_client.images import parse_image_ref
from conductor_client.node import Node
from conductor_client.plugin import Way
from conductor_client.provision import ServiceStep
from conductor_client.ramdisk_step import ServiceCapture, read_manifest, step
from conductor_client.service import Handling, Service
from snapshot_core.encryption import PrivateKey
from snapshot_core.location import check_image_name
from snapshot_core.progress import OnProgress
from snapshot_core.storage.base import Storage

__all__ = [
    "CaptureOptions",
    "Handling",
    "NodeSnapshot",
    "StorageAccess",
    "snapshot_node",
    "upload_captured",
]

KEEP_S = 7 * 24 * 3600
UNKNOWN = "unknown"


@dataclass(frozen=True)
class NodeSnapshot:
    """A snapshot of a node; ``node`` is its UUID, ``state`` in the specification's words.

    The state is ``unknown`` where the image is there, and the instance not known to be back.
    ``consistency`` is ``clean`` if the instance was off before Ironic took its power, else
    ``crash``; None if this call does not know. ``snapshot`` is None where the conductor's plug-in
    does the work: what is known of the image then is at Glance.
    """

    node: str
    image_ref: str
    state: str
    consistency: str | None
    snapshot: Snapshot | None
    warnings: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return it as a mapping of plain values."""
        return {
            "node": self.node,
            "image_ref": self.image_ref,
            "state": self.state,
            "consistency": self.consistency,
            "warnings": list(self.warnings),
            **(self.snapshot.to_wire() if self.snapshot else {}),
        }


def snapshot_node(
    connection: Any,
    node: str,
    *,
    image: str,
    storage: StorageAccess | None = None,
    options: CaptureOptions | None = None,
    handling: Handling | None = None,
    image_name: str | None = None,
    keep_for_retry: bool = True,
    keep_s: int | None = KEEP_S,
    wait: bool = True,
    work_dir: str | None = None,
    on_progress: OnProgress | None = None,
    encryption_key: PrivateKey | None = None,
    way: Way | None = None,
) -> NodeSnapshot:
    """Take a snapshot of an active node, and return when the node is active again.

    Everything is checked before anything is started. After a failure the instance is back, with
    its power as before, and the image still waits for data. An interrupt (``KeyboardInterrupt``)
    ends this call and not the service: the node goes on; before there is one, the instance is
    powered on again.

    :param node: its UUID or name. One whose last snapshot failed is taken, too.
    :param image: the UUID of a queued Glance image, or ``file:///path`` of a new file.
    :param storage: what the ramdisk stores in, as this machine reaches it, with an account that
        may read and remove there; not needed where the conductor has the plug-in.
    :param options: of these the service step knows all but ``any_root``.
    :param handling: how the machine is treated.
    :param image_name: the intermediate image's name; by default an unguessable one.
    :param keep_for_retry: an image that was captured and could not be uploaded stays in the
        storage, for :func:`upload_captured`.
    :param keep_s: after so many seconds ``ironic-snapshot reap`` may remove it; None: whenever that
        is asked to.
    :param wait: where the conductor has the plug-in, whether to wait for it. Without the plug-in
        this side uploads, and so always waits.
    :param work_dir: where a raw image is converted; by default the system's temporary directory.
    :param encryption_key: whose holder alone can read the image in the storage; by default it is
        not encrypted. A conductor that has the plug-in has a key of its own, if any.
    :param way: the answer of :func:`conductor_client.plugin.snapshot_way`, if that was asked.
    :raises: one of ``conductor_client.errors``
    """
    options, handling = options or CaptureOptions(), handling or Handling()
    ironic_node = Node(connection, node)
    way = way or plugin.snapshot_way(ironic_node, image, options)
    record = way.record
    target = parse_image_ref(image, connection)
    if way.asked:
        if encryption_key is not None:
            raise errors.InvalidRequest(
                "the conductor has the plug-in, and encrypts if its [snapshot]encryption_key_file "
                "is set: do not give a key"
            )
        if handling.leave_failed:
            raise errors.InvalidRequest(
                "the conductor takes the snapshot, and after a failure it brings the instance back "
                "at once: a node cannot be left as it failed (--leave-failed). To look at the "
                "ramdisk then, ask for the ramdisk's own step, as 'openstack baremetal node "
                "service' can"
            )
        service = Service(ironic_node, way.asked, handling, on_progress)
        warnings = plugin.run(service, connection, image, wait=wait)
        state = _state(service) if wait else states.SNAPSHOTTING
        return NodeSnapshot(record.uuid, image, state, service.consistency, None, tuple(warnings))
    options = delivery.encrypting(options, encryption_key)
    name = check_image_name(image_name or delivery.new_image_name(options.image_format))
    asked = ServiceStep(step(name, options, image, keep_s))
    service = Service(ironic_node, asked, handling, on_progress)
    with _collection(storage, record.uuid) as opened:
        order = Order(
            opened, "%s/%s" % (record.uuid, name), image, target, options.image_format,
            work_dir, on_progress, keep_for_retry, encryption_key,
        )  # fmt: skip
        snapshot = delivery.take(ServiceCapture(service, opened, order.name, on_progress), order)
    return NodeSnapshot(
        record.uuid, image, _state(service), service.consistency, snapshot, snapshot.warnings
    )


def _state(service: Service) -> str:
    return states.spoken(service.state) if service.state else UNKNOWN


def upload_captured(
    connection: Any,
    node: str,
    image_name: str,
    *,
    image: str,
    storage: StorageAccess | None = None,
    image_format: str = "qcow2",
    timeout_s: float = delivery.TIMEOUT_S,
    wait: bool = True,
    work_dir: str | None = None,
    on_progress: OnProgress | None = None,
    encryption_key: PrivateKey | None = None,
    way: Way | None = None,
) -> NodeSnapshot:
    """Upload an image that was captured before; the machine is not touched.

    If that fails, it still is in the storage. What the conductor's plug-in has kept is uploaded by
    a service of the node, which is left in ``service failed`` when that fails: an abort would
    cut the power of the instance.

    :param image_name: its name in the storage, as the error said that left it there.
    :param storage: not needed where the conductor has kept it.
    :param timeout_s: how long the conductor may take, in seconds.
    :param wait: whether to wait for the conductor; this side always waits for itself.
    :param encryption_key: the key for which it was encrypted, if it was.
    :param way: the answer of :func:`conductor_client.plugin.upload_way`, if that was asked.
    :raises: one of ``conductor_client.errors``
    """
    check_image_name(image_name)
    ironic_node = Node(connection, node)
    way = way or plugin.upload_way(ironic_node, image_name, image)
    record = way.record
    if way.asked:
        handling = Handling(shutdown_timeout_s=0, timeout_s=timeout_s, leave_failed=True)
        service = Service(ironic_node, way.asked, handling, on_progress)
        captured = record.snapshot.captured if record.snapshot else None
        warnings = plugin.run(service, connection, image, wait=wait, captured=captured)
        state = _state(service) if wait else states.SNAPSHOTTING
        return NodeSnapshot(record.uuid, image, state, None, None, tuple(warnings))
    target = parse_image_ref(image, connection)
    with _collection(storage, record.uuid) as opened:
        name = "%s/%s" % (record.uuid, image_name)
        found = read_manifest(opened, name)
        if not found or "progress" in found:
            raise errors.InvalidRequest(
                "%s is no image that was captured to the end" % opened.describe(name)
            )
        order = Order(
            opened, name, image, target, image_format, work_dir, on_progress,
            keep_for_retry=True, key=encryption_key,
        )  # fmt: skip
        snapshot = delivery.take_captured(Captured.parse(found), order)
    state = states.spoken(record.provision_state)
    return NodeSnapshot(record.uuid, image, state, None, snapshot)


@contextlib.contextmanager
def _collection(access: StorageAccess | None, uuid: str) -> Iterator[Storage]:
    """Yield the storage; in the end a node's collection in it that is empty is removed."""
    if access is None:
        raise errors.InvalidRequest(
            "the storage is needed: this side uploads, since the conductor has no plug-in for this "
            "node, or has not kept this image"
        )
    with access.opened() as storage:
        try:
            yield storage
        except KeyboardInterrupt:
            raise  # the machine goes on, and is about to use it
        except BaseException:
            remove_if_empty(access, storage, uuid)
            raise
        remove_if_empty(access, storage, uuid)
