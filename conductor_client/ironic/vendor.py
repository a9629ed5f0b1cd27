# SPDX-License-Identifier: Apache-2.0
"""The vendor interface ``snapshot``: service steps for an Ironic without a snapshot interface."""

from typing import Any

from ironic.common import exception
from ironic.conductor.base_manager import BaseConductorManager
from ironic.conductor.task_manager import TaskManager
from ironic.drivers import base

from conductor_client.ironic import periodic
from conductor_client.ironic.agent import AgentSnapshot
from conductor_client.ironic.carrier import ServiceCarrier
from conductor_client.ironic.metrics import get_metrics_logger

METRICS = get_metrics_logger(__name__)

# Ironic keeps this on the node from the first heartbeat of a service to its end.
_RAMDISK_STEPS = "agent_cached_service_steps"
_IMAGE_REF = {
    "description": "The UUID of a queued image of the node's owner, lessee or instance's project, "
    "which is neither public nor community.",
    "required": True,
}


def _optional(description: str) -> dict[str, Any]:
    return {"description": description, "required": False}


class SnapshotVendor(base.VendorInterface):
    """Takes snapshots by :class:`.AgentSnapshot`."""

    def __init__(self) -> None:
        self._snapshots = AgentSnapshot(ServiceCarrier())

    def get_properties(self) -> dict[str, str]:
        """See Ironic's BaseInterface."""
        return self._snapshots.get_properties()

    def validate(self, task: TaskManager, method: str | None = None, **_kwargs: Any) -> None:
        """See Ironic's VendorInterface."""
        if method is not None:
            raise exception.InvalidParameterValue("there is no vendor method %s" % method)
        self._snapshots.validate(task)

    def get_service_steps(self, task: TaskManager) -> list[dict[str, Any]]:
        """Return the steps that the node can do now.

        Ironic 39 boots the ramdisk for a step that it does not find before, and not for one that
        it finds, although that says ``requires_ramdisk``: its list of steps to do has lost that.
        So these are listed, as those of a ramdisk are, once the ramdisk has told its own.
        """
        has_ramdisk = _RAMDISK_STEPS in task.node.driver_internal_info
        return [step for step in self.service_steps if has_ramdisk or not step["requires_ramdisk"]]

    @METRICS.timer("SnapshotVendor.snapshot")
    @base.service_step(
        priority=0, abortable=True, requires_ramdisk=True,
        argsinfo={
            "image_ref": _IMAGE_REF,
            "writer": _optional("How the image is made and sent; by default as configured."),
            "image_format": _optional("qcow2 (the default) or raw."),
            "compression": _optional("auto (the default), zstd, zlib or none; for qcow2."),
            "bad_sectors": _optional("fail (the default), or zero: they are zeros in the image."),
            "expected_serial": _optional("Refuse any disk but the one with this serial number."),
            "expected_wwn": _optional("Refuse any disk but the one with this WWN."),
        },
    )  # fmt: skip
    def snapshot(self, task: TaskManager, image_ref: str, **options: Any) -> str:
        """Take a snapshot of the root device into ``image_ref``."""
        return self._snapshots.snapshot(task, image_ref, **options)

    @METRICS.timer("SnapshotVendor.upload_snapshot")
    @base.service_step(
        priority=0, abortable=True, requires_ramdisk=False, argsinfo={"image_ref": _IMAGE_REF}
    )
    def upload_snapshot(self, task: TaskManager, image_ref: str) -> str:
        """Upload an image that was captured, and whose upload failed, into ``image_ref``."""
        return self._snapshots.upload_again(task, image_ref)

    @METRICS.timer("SnapshotVendor.continue_snapshots")
    @periodic.following(ServiceCarrier.wait_state)
    def continue_snapshots(
        self, task: TaskManager, _manager: BaseConductorManager, _context: Any
    ) -> None:
        """Take all snapshots that go on a step further."""
        periodic.follow(self._snapshots, task)

    @METRICS.timer("SnapshotVendor.clean_up_snapshots")
    @periodic.cleaning_up()
    def clean_up_snapshots(self, manager: BaseConductorManager, context: Any) -> None:
        """Clean up after snapshots that are over, in whatever state their nodes are."""
        periodic.clean_up(self._snapshots, manager, context)
