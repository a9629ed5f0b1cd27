# SPDX-License-Identifier: Apache-2.0
"""The service step ``snapshot``: the root device becomes an image, on an unmodified Ironic."""

# The options of the agent must be known before its hardware module is imported.
import ironic_python_agent.config  # noqa: F401 # isort: skip
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from ironic_python_agent import errors as agent_errors
from ironic_python_agent import hardware
from oslo_config import cfg

from ipa_snapshot import capture, errors
from ipa_snapshot.extension import config
from ipa_snapshot.extension.root_device import find_root_device
from ipa_snapshot.request import SnapshotRequest
from snapshot_core.location import Location
from snapshot_core.storage import open_storage

config.register(cfg.CONF)

# All optional, so that a runbook, whose arguments are fixed, needs none.
ARGUMENTS = {
    "image_name": "The image's name in the storage, below the node's UUID; one that exists is "
    "refused. By default an unguessable name.",
    "writer": "How the image is made and sent: auto (the default), stream, dd, or another writer "
    "that the ramdisk has.",
    "image_format": "qcow2 (the default) or raw.",
    "compression": "auto (the default), zstd, zlib or none; for qcow2.",
    "bad_sectors": "fail (the default): a sector that cannot be read ends the snapshot; zero: it "
    "is zeros in the image, and is told.",
    "encrypt_for": "The public key of whoever alone is to be able to read the image in the "
    "storage: the 32 bytes of an X25519 key in base64.",
    "expected_serial": "Refuse any disk but the one with this serial number.",
    "expected_wwn": "Refuse any disk but the one with this WWN.",
    "image_ref": "Where the image is to go: an image's UUID or file:///path. Only told in the "
    "manifest, for whoever finds the image.",
    "keep_s": "After so many seconds in the storage the image may be removed; only told in the "
    "manifest.",
    "url": "Another storage than the configured one; only below what the ramdisk's configuration "
    "allows.",
}


class StepFailed(agent_errors.RESTError):
    """One of our errors on its way to the conductor."""

    message = "Snapshot failed"

    def __init__(self, error: errors.SnapshotError) -> None:
        # Ironic 39 shows the details of a failed step, and neither its type nor its message.
        super().__init__(details="%s: %s" % (error.word, error))
        self.type = error.word


class SnapshotHardwareManager(hardware.HardwareManager):
    """Adds the service step ``snapshot`` to the agent, and leaves everything else to others."""

    HARDWARE_MANAGER_NAME = "SnapshotHardwareManager"
    HARDWARE_MANAGER_VERSION = "1"

    def evaluate_hardware_support(self) -> int:
        """Say that this manager suits every machine."""
        return int(hardware.HardwareSupport.SERVICE_PROVIDER)

    # ironic-python-agent 13.0: the base class's own two refuse with a TypeError, which ends the
    # search for a manager, where they are given an option that the generic manager takes.

    def list_block_devices(self, **_options: Any) -> Any:
        """Leave the disks to other managers."""
        raise agent_errors.IncompatibleHardwareMethodError

    def list_block_devices_check_skip_list(self, _node: object, **_options: Any) -> Any:
        """Leave the disks to other managers."""
        raise agent_errors.IncompatibleHardwareMethodError

    def get_service_steps(self, node: object, ports: object) -> list[dict[str, Any]]:
        """Return the step; it is listed where it is not configured too, and then says what to do.

        An abort powers the machine off, which harms nothing: the disk is only read.
        """
        return [
            {
                "step": "snapshot",
                "interface": "deploy",
                "priority": 0,
                "reboot_requested": False,
                "abortable": True,
                "argsinfo": {
                    name: {"description": text, "required": False}
                    for name, text in ARGUMENTS.items()
                },
            }
        ]

    def snapshot(self, node: Mapping[str, Any], ports: object, **arguments: Any) -> dict[str, Any]:
        """Store an image of the root device in the configured storage, below the node's UUID.

        :param arguments: those of ``argsinfo``; None is as if it were not given.
        :returns: see :meth:`ipa_snapshot.capture.SnapshotResult.to_wire`.
        :raises: StepFailed
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            return _take(config.StepConfig.read(cfg.CONF), node, given)
        except errors.SnapshotError as exc:
            raise StepFailed(exc) from exc


def _take(
    settings: config.StepConfig, node: Mapping[str, Any], arguments: dict[str, Any]
) -> dict[str, Any]:
    if unknown := set(arguments) - set(ARGUMENTS):
        raise errors.InvalidRequest("unknown arguments: %s" % ", ".join(sorted(unknown)))
    target = settings.target(arguments.pop("url", None))
    collection = _canonical_uuid(node.get("uuid"))
    purpose = capture.Purpose.parse(
        collection, arguments.pop("image_ref", None), arguments.pop("keep_s", None)
    )
    request = SnapshotRequest.parse(
        "%s/%s" % (target.url.rstrip("/"), collection),
        arguments.pop("image_name", _unguessable_name(arguments.get("image_format"))),
        auth=target.credentials,
        **arguments,
    )
    device = find_root_device(request.expectation)
    with open_storage(Location.parse(target.url), target.credentials, target.trust) as storage:
        storage.make_collection(collection)
    return capture.take_snapshot(request, device, target.trust, purpose=purpose).to_wire()


def _canonical_uuid(value: object) -> str:
    try:
        return str(uuid.UUID(str(value)))
    except ValueError as exc:
        raise errors.InvalidRequest("the node's uuid %r is none" % value) from exc


def _unguessable_name(image_format: object) -> str:
    return "%s.%s" % (secrets.token_hex(16), "raw" if image_format == "raw" else "qcow2")
