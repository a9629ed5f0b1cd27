# SPDX-License-Identifier: Apache-2.0
"""``openstack server image create`` of a bare-metal instance: Nova, Ironic and Glance are real."""

import pathlib
import time
from collections.abc import Iterator

import pytest
from nova import context as nova_context
from nova import objects
from nova.tests.functional.api.client import OpenStackApiException
from nova.virt.ironic_snapshot import restart
from nova.virt.ironic_snapshot.running import RunningSnapshot
from nova_cloud import BASE_PROPERTIES, COMPUTE, SIGNATURE, CloudTestCase, Server
from openstack.exceptions import NotFoundException

from tests.functional.conftest import same_files
from tests.lab import conductors, disks
from tests.lab.ironic import Ironic
from tests.lab.machines import AND_BACK, THERE, wait_until


class TestSnapshots(CloudTestCase):
    def is_there(self, image: str) -> bool:
        try:
            self.glance.get_image(image)
        except NotFoundException:
            return False
        return True

    def periodic(self, task: str) -> None:
        """Run one of the compute service's periodic tasks."""
        [compute] = self.computes.values()
        cell = self.cell_mappings["cell1"]
        with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
            getattr(compute.manager, task)(context)

    def assert_as_before(self, server: Server) -> None:
        server.wait_for("ACTIVE", None)
        record = server.node.wait_for("active")
        assert (record.power_state, record.is_maintenance) == ("power on", False)
        assert server.at_home()

    def assert_image(self, image: str) -> None:
        found = self.glance.get_image(image)
        assert (found.status, found.disk_format, found.container_format) == (
            "active", "qcow2", "bare",
        )  # fmt: skip
        assert (found.name, found.owner, found.visibility) == ("master", self.project, "private")
        assert same_files(self.disk, self.backends.glance.images / image, self.scratch)

    def test_an_image_of_a_server_is_active_and_the_server_as_before(self) -> None:
        self.use_storage()
        server = self.make_server()
        image = server.create_image()
        server.wait_for("ACTIVE", "image_pending_upload")
        server.node.wait_for("service wait")
        for action in ({"reboot": {"type": "HARD"}}, {"os-stop": None}, {"shelve": None}):
            with pytest.raises(OpenStackApiException) as refused:
                self.api.post_server_action(server.id, action)
            assert refused.value.response.status_code == 409
        with server.ramdisk():
            with conductors.slowed_network():
                server.wait_for("ACTIVE", "image_uploading")
            self.assert_as_before(server)
        assert server.powers()[0] == "soft power off"
        assert server.hardware() == [*THERE, *AND_BACK]
        self.assert_image(image)
        properties = self.glance.get_image(image).to_dict()
        properties.update(properties.pop("properties"))
        expected = {
            **BASE_PROPERTIES, "image_type": "snapshot", "instance_uuid": server.id,
            "img_type": "whole-disk", "owner_id": self.project, "min_disk": 1,
        }  # fmt: skip
        assert {name: properties.get(name) for name in expected} == expected
        assert not [name for name in SIGNATURE if properties.get(name)]
        assert self.backends.storage.names() == []

    def test_nova_does_not_take_the_machine_for_an_instance_that_is_off(self) -> None:
        self.use_storage()
        server = self.make_server()
        server.create_image()
        server.node.wait_for("service wait")
        # What Nova sees while Ironic boots the machine.
        cloud = server.node.cloud.baremetal
        cloud.set_node_power_state(server.node.uuid, "power off")
        server.node.wait_until("off", lambda record: record.power_state == "power off")
        self._run_periodics()
        self.periodic("_sync_power_states")
        cloud.set_node_power_state(server.node.uuid, "power on")
        with server.ramdisk():
            self.assert_as_before(server)
        asked = server.powers()
        # Nor does it do so later because of what it saw then.
        self.periodic("_sync_power_states")
        time.sleep(1)
        assert server.state == ("ACTIVE", None)
        assert server.powers() == asked

    def test_where_the_conductor_has_the_plug_in_no_storage_is_needed(self) -> None:
        server = self.make_server(vendor_interface="snapshot")
        image = server.create_image()
        with server.ramdisk():
            self.assert_as_before(server)
        self.assert_image(image)
        conductors.wait_until_forgotten(server.node)
        assert self.backends.names(server.node) == []

    def test_a_backup_of_a_stopped_server_is_one_and_the_server_stays_stopped(self) -> None:
        self.use_storage()
        server = self.make_server()
        server.act("os-stop")
        server.wait_for("SHUTOFF", None)
        answer = server.act("createBackup", name="master", backup_type="daily", rotation=1)
        with server.ramdisk():
            server.wait_for("SHUTOFF", None)
        assert self.glance.get_image(answer["image_id"]).properties["image_type"] == "backup"
        self.assert_image(answer["image_id"])
        self.periodic("_sync_power_states")
        assert server.state == ("SHUTOFF", None)
        assert server.node.wait_for("active").power_state == "power off"

    def test_a_storage_that_does_not_answer_fails_before_anything_is_started(self) -> None:
        self.use_storage(url="https://127.0.0.1:1/snapshots")
        server = self.make_server()
        image = server.create_image()
        self.assert_as_before_and_failed(server, image, "StorageUnavailable")
        assert server.powers() == []

    def test_without_a_storage_and_a_plug_in_what_is_missing_is_told(self) -> None:
        server = self.make_server()
        image = server.create_image()
        self.assert_as_before_and_failed(server, image, "the storage is needed")
        assert server.powers() == []

    def assert_as_before_and_failed(self, server: Server, image: str, reason: str) -> None:
        server.wait_for("ACTIVE", None)
        wait_until("without the image", lambda: not self.is_there(image))
        record = server.node.wait_for("active")
        assert (record.power_state, record.is_maintenance) == ("power on", False)
        assert reason in server.fault()
        assert self.backends.storage.names() == []

    def test_an_abort_by_the_operator_fails_and_the_server_is_back(self) -> None:
        self.use_storage()
        server = self.make_server()
        image = server.create_image()
        server.node.wait_for("service wait")
        server.node.abort()
        self.assert_as_before_and_failed(server, image, "aborted")
        assert server.at_home()

    def delete(self, server: Server, image: str) -> None:
        self.api.delete_server(server.id)
        server.wait_until_gone()
        wait_until("without the image", lambda: not self.is_there(image))

    def test_a_server_is_deleted_while_its_ramdisk_boots(self) -> None:
        self.use_storage()
        server = self.make_server()
        image = server.create_image()
        server.node.wait_for("service wait")
        self.delete(server, image)
        ends = [("service wait", "service failed"), ("service failed", "active")]
        assert server.changes()[2:5] == [*ends, ("active", "deleting")]
        assert self.backends.storage.names() == []

    def test_a_server_is_deleted_while_its_image_is_uploaded(self) -> None:
        self.use_storage()
        server = self.make_server()
        image = server.create_image()
        with server.ramdisk():
            server.wait_for("ACTIVE", "image_pending_upload")
            with conductors.slowed_network():
                server.wait_for("ACTIVE", "image_uploading")
                self.delete(server, image)
        assert self.backends.storage.names() == []

    def test_a_server_is_deleted_while_the_conductor_captures_it(self) -> None:
        server = self.make_server(vendor_interface="snapshot")
        image = server.create_image()
        with server.ramdisk(), conductors.slowed_network():
            conductors.wait_for_phase(server.node, "capturing")
            self.delete(server, image)
        conductors.wait_until_forgotten(server.node)
        assert self.backends.names(server.node) == []

    def service(self, server: Server, step: str, **arguments: str) -> None:
        """Have Ironic begin a service of the ramdisk's, as a compute service did that is gone."""
        server.node.start_service({"interface": "deploy", "step": step, "args": arguments})
        server.node.wait_for("service wait")

    def restart_compute(self, server: Server) -> None:
        """Start the compute service anew; the one before ended in mid-snapshot of the server."""
        cell = self.cell_mappings["cell1"]
        with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
            instance = objects.Instance.get_by_uuid(context, server.id)
            instance.task_state = "image_pending_upload"
            instance.save()
        self.computes[COMPUTE] = self.restart_compute_service(
            self.computes[COMPUTE], keep_hypervisor_state=False
        )
        server.wait_for("ACTIVE", None)

    def test_a_snapshot_that_fails_after_a_restart_leaves_no_server_down(self) -> None:
        server = self.make_server()
        self.service(server, "snapshot", image_name="1.qcow2", expected_serial="of-another-disk")
        self.restart_compute(server)
        with server.ramdisk():
            self.assert_as_before(server)
        assert ("service failed", "active") in server.changes()

    def test_a_snapshot_that_failed_before_a_restart_leaves_no_server_down(self) -> None:
        server = self.make_server()
        self.service(server, "snapshot", image_name="1.qcow2", expected_serial="of-another-disk")
        with server.ramdisk():
            server.node.wait_for("service failed")
        self.restart_compute(server)
        self.assert_as_before(server)

    def test_a_server_whose_compute_service_was_restarted_is_deleted(self) -> None:
        server = self.make_server()
        self.service(server, "snapshot", image_name="1.qcow2")
        self.restart_compute(server)
        self.api.delete_server(server.id)
        server.wait_until_gone()

    def test_a_service_of_somebody_else_that_failed_is_left_alone(self) -> None:
        server = self.make_server()
        self.service(server, "no_such_step")
        with server.ramdisk():
            server.node.wait_for("service failed")
        running = RunningSnapshot(lambda **_state: None)
        restart.follow(server.node.cloud, server.node.uuid, running)
        assert server.node.record().provision_state == "service failed"


class TestSnapshotsByTheVerb(CloudTestCase):
    @pytest.fixture(autouse=True)
    def _surroundings(
        self, backends: conductors.Backends, bare_metal_with_verb: Ironic, small_disk: disks.Disk,
        tmp_path: pathlib.Path,
    ) -> Iterator[None]:  # fmt: skip
        self.__dict__["_lab"] = (backends, bare_metal_with_verb, small_disk, tmp_path)
        yield
        backends.gate.forget()

    def test_a_node_that_has_it_is_asked_by_it(self) -> None:
        server = self.make_server()
        image = server.create_image()
        with conductors.ramdisk(server.node, self.disk, "snapshot wait"):
            server.wait_for("ACTIVE", None)
            assert server.node.wait_for("active").power_state == "power on"
        assert self.glance.get_image(image).status == "active"
        assert same_files(self.disk, self.backends.glance.images / image, self.scratch)
        conductors.wait_until_forgotten(server.node)
        assert self.backends.names(server.node) == []
