# SPDX-License-Identifier: Apache-2.0
"""What an operator sees fail: the reason is told, the instance comes back, the image waits."""

import io
import shlex
import subprocess
import time
from typing import Any

from oslo_serialization import jsonutils
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

    @decorators.idempotent_id("8a4f1a52-7d0c-4c7b-9a25-3d2f6d1b7e12")
    def test_an_image_of_another_project_is_refused(self) -> None:
        """Nobody writes a disk into the image of a project that has no part in the node."""
        images = self.os_project_alt_member.image_client_v2
        image = self.new_image(images=images)
        self.fail_to_snapshot(image, "belongs to the project")
        self.assert_back(image, images)

    @decorators.idempotent_id("2f9b7c3e-64c1-4f0a-8f57-90c3b1e5a413")
    def test_an_image_that_every_project_sees_is_refused(self) -> None:
        """An image of the community's would show the disk to all; so would a public one."""
        image = self.new_image(visibility="community")
        self.fail_to_snapshot(image, "every project would see the disk")
        self.assert_back(image)

    @decorators.idempotent_id("c7c5e8d0-1b36-4a49-b0a1-6e8f2d9c0b14")
    def test_a_node_in_maintenance_is_refused(self) -> None:
        """A node on which somebody works is not rebooted."""
        image, uuid = self.new_image(), self.node["uuid"]
        self.addCleanup(self.patiently, lambda: self.admin.unset_maintenance(uuid))
        self.patiently(lambda: self.admin.set_maintenance(uuid, "a test of snapshots"))
        self.fail_to_snapshot(image, "maintenance")
        self.patiently(lambda: self.admin.unset_maintenance(uuid))
        self.assert_back(image)

    @decorators.idempotent_id("5b1e9f64-0d8a-4f2e-9c7d-7a3e4c2b8d15")
    def test_a_second_one_meanwhile_is_refused(self) -> None:
        """A node whose snapshot waits for its ramdisk takes no other, and is aborted then."""
        image, other = self.new_image(), self.new_image()
        self.ask(image)
        timeout_s = CONF.ironic_snapshot.snapshot_timeout
        self.wait_for(self.node, self.way.waiting, timeout_s=timeout_s)
        self.assertRaises(lib_exc.BadRequest, self.ask, other)
        self.assert_back(image)
        self.assertEqual("queued", self.images.show_image(other)["status"])

    @decorators.idempotent_id("f0d3a7b9-2c58-4e61-a4f3-1b6d8e9c7a16")
    def test_after_a_failure_it_is_taken_again(self) -> None:
        """What failed is mended, and the snapshot goes into the image that has waited."""
        image = self.new_image()
        self.give("root_device", {"serial": "no-disk-of-this-machine"})
        self.fail_to_snapshot(image, "DeviceNotFound")
        hints = [self.node[part].get("root_device") for part in ("instance_info", "properties")]
        self.change(self.node, {"/instance_info/root_device": next(filter(None, hints), {})})
        self.snapshot(image)

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

    @decorators.idempotent_id("3e7a1d94-5b2f-4c86-9f0d-8c4b6a2e7d17")
    def test_a_machine_that_dies_in_mid_snapshot_is_given_up(self) -> None:
        """The ramdisk has reported, and then its machine has no power."""
        command = CONF.ironic_snapshot.machine_cut_command
        if not command:
            raise self.skipException("no command to cut the machine's power is configured")
        image = self.new_image()
        self.ask(image)
        self.wait_for_ramdisk()
        run(command)
        self.assert_failed("does not answer")
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
        where = registered["region_id"], registered["service_id"], project
        # Tempest's client has no call to list limits, nor to delete one.
        _response, body = limits.get("limits?resource_name=%s" % resource)
        for one in jsonutils.loads(body)["limits"]:
            if where == (one["region_id"], one["service_id"], one["project_id"]):
                # Keystone 30 accepts a change of a limit to 0, and does not make it.
                limits.delete("limits/%s" % one["id"])
                before = one["resource_limit"], one["description"]
                self.addCleanup(limits.create_limit, *where, resource, *before)
        [made] = limits.create_limit(*where, resource, value)["limits"]
        self.addCleanup(limits.delete, "limits/%s" % made["id"])


def run(command: str) -> None:
    """Run a command of the configuration."""
    subprocess.run(shlex.split(command), check=True, timeout=60)
