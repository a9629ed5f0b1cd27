# SPDX-License-Identifier: Apache-2.0
"""Nova's driver for Ironic, which also takes snapshots of its instances."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import nova.conf
import tenacity
from keystoneauth1 import exceptions as keystone_exceptions
from nova import exception, service_auth, utils
from nova.image import glance
from nova.virt.ironic import driver
from nova.virt.ironic_snapshot import conf, restart
from nova.virt.ironic_snapshot.running import RunningSnapshot, WatchedBaremetal
from openstack import exceptions as sdk_exceptions
from oslo_log import log

from conductor_client import errors, sdk

CONF = nova.conf.CONF
conf.register_opts(CONF)
LOG = log.getLogger(__name__)

# Ironic is given half an hour for the way back, and half an hour for the power.
_END_PATIENCE_S = 3600
# Those of the SDK's, and of what it stands upon when no service answers.
_IRONIC_ERRORS = (sdk_exceptions.SDKException, keystone_exceptions.ClientException)


class SnapshotFailed(exception.NovaException):
    """There is no image; the message begins with the error's word, such as ``NodeNotReady``."""

    msg_fmt = "The snapshot of instance %(instance)s failed: %(word)s: %(reason)s"


@dataclass(frozen=True)
class _Clouds:
    """What the SDK takes for a connection: Ironic as Nova, and Glance as the user."""

    baremetal: Any
    image: Any


class IronicSnapshotDriver(driver.IronicDriver):
    """IronicDriver, for ``openstack server image create``."""

    def __init__(self, virtapi: Any, read_only: bool = False) -> None:
        super().__init__(virtapi, read_only)
        self._image_api = glance.API()
        self._snapshots: dict[str, RunningSnapshot] = {}

    def snapshot(
        self, context: Any, instance: Any, image_id: str, update_task_state: Callable[..., None]
    ) -> None:
        """Take a snapshot of the machine's disk; its power is as before when this returns.

        :param image_id: of an image that Nova has created without data.
        :raises: SnapshotFailed, InstanceNotFound when the instance was deleted meanwhile
        """
        with self._running(instance, update_task_state) as running:
            running.begin()
            self._describe(context, instance, image_id)
            try:
                self._take(context, instance, image_id, running)
            except errors.SnapshotError as exc:
                raise _reason(instance, running, exc) from exc
            running.show_upload()

    def _describe(self, context: Any, instance: Any, image_id: str) -> None:
        """Add to the properties that the image has from Nova's API."""
        properties = {
            "image_location": "snapshot",
            "image_state": "available",
            "owner_id": instance.project_id,
            # Of a whole disk, even where the instance was made of a partition and a kernel.
            "img_type": "whole-disk",
            **({"os_type": instance.os_type} if instance.os_type else {}),
        }
        self._image_api.update(context, image_id, {"properties": properties})

    def _take(self, context: Any, instance: Any, image_id: str, running: RunningSnapshot) -> None:
        settings = conf.Settings.read(CONF)
        auth = service_auth.get_service_user_token_auth_plugin(context)
        clouds = _Clouds(
            WatchedBaremetal(self.ironic_connection, running),
            utils.get_sdk_adapter("image", admin=False, ksa_auth=auth),
        )
        taken = sdk.snapshot_node(
            clouds, instance.node,
            image=image_id,
            storage=settings.storage,
            handling=settings.handling,
            # Nova deletes the image of a snapshot that failed: nobody could try again.
            keep_for_retry=False,
            on_progress=running.tell,
            encryption_key=settings.key,
        )  # fmt: skip
        for warning in taken.warnings:
            LOG.warning(warning, instance=instance)

    @contextlib.contextmanager
    def _running(
        self, instance: Any, update_task_state: Callable[..., None]
    ) -> Iterator[RunningSnapshot]:
        """Let the instance's deletion know of its snapshot."""
        running = RunningSnapshot(update_task_state)
        if self._snapshots.setdefault(instance.uuid, running) is not running:
            raise SnapshotFailed(
                instance=instance.uuid, word="NodeNotReady", reason="another snapshot is running"
            )
        try:
            yield running
        finally:
            del self._snapshots[instance.uuid]
            try:
                self._refresh_cached_power(instance)
            finally:
                running.finish()

    def _refresh_cached_power(self, instance: Any) -> None:
        # Nova's view of a node is up to a minute old, and may be one of the ramdisk.
        if instance.node in self.node_cache:
            # An error here would have Nova delete an image that is complete.
            with contextlib.suppress(*_IRONIC_ERRORS):
                self.node_cache[instance.node] = self._get_node(instance.node)

    def process_instances_at_startup(self, context: Any, instances: Any) -> Any:
        """Look after the machines whose snapshots nobody waits for since the service ended.

        That takes no time here.
        """
        # The last chance: Nova takes these task states away next.
        for instance in [one for one in instances if one.task_state in restart.TASKS]:
            # Of the executors' threads a service that ends waits for.
            threading.Thread(target=self._follow, args=(instance,), daemon=True).start()
        return super().process_instances_at_startup(context, instances)

    def _follow(self, instance: Any) -> None:
        try:
            with self._running(instance, lambda **_state: None) as running:
                clouds = _Clouds(self._patient_connection(), None)
                restart.follow(clouds, instance.node, running)
        except Exception:
            LOG.exception("The instance may be down after its snapshot", instance=instance)

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(exception.ServiceUnavailable),
        stop=tenacity.stop_after_delay(_END_PATIENCE_S),
        wait=tenacity.wait_fixed(10),
        reraise=True,
    )
    def _patient_connection(self) -> Any:
        # Ironic may start at the same time.
        return self.ironic_connection

    def _end_snapshot(self, instance: Any) -> None:
        """Abort the instance's snapshot, if there is one, and wait until its machine is back."""
        running = self._snapshots.get(instance.uuid)
        if running is None:
            return
        LOG.info("Ending the snapshot of the instance", instance=instance)
        if not running.end(_END_PATIENCE_S):
            LOG.error("Its snapshot does not end: going on without that", instance=instance)

    def destroy(  # noqa: PLR0917 as Nova has it
        self, context: Any, instance: Any, network_info: Any, block_device_info: Any = None,
        destroy_disks: bool = True, destroy_secrets: bool = True,
    ) -> None:  # fmt: skip
        """End a snapshot that goes on, since Ironic deletes only from some of its states."""
        self._end_snapshot(instance)
        super().destroy(
            context, instance, network_info, block_device_info, destroy_disks, destroy_secrets
        )

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        """End a snapshot that goes on.

        Of all that powers off only a soft deletion comes then, and a stop after a restart.
        """
        self._end_snapshot(instance)
        super().power_off(instance, timeout, retry_interval)


def _reason(
    instance: Any, running: RunningSnapshot, exc: errors.SnapshotError
) -> exception.NovaException:
    if running.refusal is not None:
        return running.refusal
    if running.is_unwanted:
        return exception.InstanceNotFound(instance_id=instance.uuid)
    return SnapshotFailed(instance=instance.uuid, word=exc.word, reason=exc)
