# SPDX-License-Identifier: Apache-2.0
"""What an operator sees fail: the reason is told, the instance comes back, the image waits."""

import io
import shlex
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from tempest import config
from tempest.lib import decorators
from tempest.lib import exceptions as lib_exc

from ironic_snapshot_tempest_plugin.tests.scenario import base

CONF = config.CONF
# A documentation address (RFC 5737): nobody answers there.
NOBODY = "http://192.0.2.1"


class TestFailures(base.SnapshotTest):
    """Snapshots of the node that do not come about."""

    @decorators.idempotent_id("6f6c2a4e-3f29-4a3e-9c8a-0c5d1f0be803")
    def test_a_disk_that_is_not_there_is_refused(self) -> None:
        """The agent refuses a machine none of whose disks fits the root device hints."""
        image = self.new_image()
        self.give("root_device", {"serial": "no-disk-of-this-machine"})
        self.fail_to_snapshot(image, "DeviceNotFound")
        self.assert_back(image)

    @decorators.idempotent_id("b8d9c6c4-6a7e-4f77-8f0e-64e2b1c7d204")
    def test_a_storage_that_refuses_is_told(self) -> None:
        """The storage takes no data, and does again."""
        commands = CONF.ironic_snapshot
        if not (commands.storage_break_command and commands.storage_mend_command):
            raise self.skipException("no command to break the storage is configured")
        image = self.new_image()
        self.addCleanup(run, commands.storage_mend_command)
        run(commands.storage_break_command)
        self.fail_to_snapshot(image, "StorageUnavailable")
        run(commands.storage_mend_command)
        self.assert_back(image)

    @decorators.idempotent_id("c0d1d9a8-77a4-4c25-9d1b-3c8d0d9a1d05")
    def test_an_image_that_has_data_is_refused(self) -> None:
        """An image that is not queued is never overwritten."""
        image = self.new_image("raw")
        self.images.store_image_file(image, io.BytesIO(b"somebody's data"))
        before = self.images.show_image(image)
        self.fail_to_snapshot(image, "expected queued")
        self.bring_back()
        self.assertEqual(before["os_hash_value"], self.images.show_image(image)["os_hash_value"])

    @decorators.idempotent_id("e3a3a5a5-9f5e-43f2-a7de-0a4b3f7c6e06")
    def test_an_image_over_the_quota_is_not_stored(self) -> None:
        """The image is larger than what the project of the conductor's account may have."""
        project = CONF.ironic_snapshot.upload_project
        if not project:
            raise self.skipException("no upload_project is configured")
        image = self.new_image()
        self.limit(project, "image_size_total", 0)
        self.fail_to_snapshot(image, "UploadFailed")
        self.assert_back(image)

    @decorators.idempotent_id("1c2f2a34-50f8-4b4e-8b0e-b4f8f3b0a107")
    def test_an_abort_ends_it(self) -> None:
        """The instance is back after an abort, in one request or two."""
        image = self.new_image()
        self.ask(image)
        self.wait_for_ramdisk()
        self.patiently(lambda: self.member.set_provision_state(self.node["uuid"], "abort"))
        self.assert_back(image)

    @decorators.idempotent_id("9d1d5d3b-0b0e-4f54-a0f6-5a1f6f0c2f08")
    def test_a_ramdisk_that_does_not_report_is_given_up(self) -> None:
        """The ramdisk boots, and does not find Ironic."""
        timeout_s = CONF.ironic_snapshot.callback_timeout
        if not timeout_s:
            raise self.skipException("callback_timeout is not set")
        image = self.new_image()
        self.give("kernel_append_params", "ipa-api-url=%s" % NOBODY)
        began = time.monotonic()
        self.fail_to_snapshot(image, "imeout reached")
        self.assertGreaterEqual(time.monotonic() - began, timeout_s)
        self.assert_back(image)

    @decorators.idempotent_id("d6b4e0d5-8a0c-4d7e-8d2f-2f5f0a7b9c09")
    def test_who_has_no_rights_is_refused(self) -> None:
        """A reader of the project, and a member of another one, touch nothing."""
        image = self.new_image()
        request = self.way.request(image)
        for client, refusal in (
            (self.reader, lib_exc.Forbidden),
            (self.stranger, lib_exc.NotFound),
        ):
            self.assertRaises(refusal, client.set_provision_state, self.node["uuid"], **request)
        self.assertEqual(base.ACTIVE, self.look(self.node)["provision_state"])
        self.assertEqual("queued", self.images.show_image(image)["status"])

    def wait_for_ramdisk(self) -> None:
        """Return as soon as the ramdisk has reported."""
        deadline = time.monotonic() + CONF.ironic_snapshot.snapshot_timeout
        while not self.look(self.node)["driver_internal_info"].get("agent_url"):
            self.assertLess(time.monotonic(), deadline, "no ramdisk has reported")
            time.sleep(CONF.ironic_snapshot.poll_interval)

    def give(self, key: str, value: Any) -> None:
        """Write something into the node's instance_info, for this test."""
        path = "/instance_info/%s" % key
        self.change(self.node, {path: value})
        before = self.node["instance_info"].get(key)
        self.addCleanup(self.change, self.node, {path: before})
        # The node cannot be changed while its snapshot goes on.
        self.addCleanup(self.bring_back)

    def limit(self, project: str, resource: str, value: int) -> None:
        """Let a project have so much of a resource of Glance's, where Keystone keeps limits."""
        limits = self.os_system_admin.identity_limits_client
        known = limits.get_registered_limits()["registered_limits"]
        [registered] = [one for one in known if one["resource_name"] == resource] or [None]
        if registered is None:
            raise self.skipException("this cloud has no limits of %s" % resource)
        made: Mapping[str, Any] = limits.create_limit(
            registered["region_id"], registered["service_id"],
            project, resource, value,
        )["limits"][0]  # fmt: skip
        # Tempest's client has no call for that.
        self.addCleanup(limits.delete, "limits/%s" % made["id"])


def run(command: str) -> None:
    """Run a command of the configuration."""
    subprocess.run(shlex.split(command), check=True, timeout=60)
