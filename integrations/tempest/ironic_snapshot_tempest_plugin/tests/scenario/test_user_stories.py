# SPDX-License-Identifier: Apache-2.0
"""The two user stories of the specification: a backup, and a master image."""

from collections.abc import Mapping, Sequence
from typing import Any

from tempest import config
from tempest.lib import decorators

from ironic_snapshot_tempest_plugin.tests.scenario import base

CONF = config.CONF


class TestUserStories(base.SnapshotTest):
    """Images of the node, on other machines and on itself."""

    @classmethod
    def skip_checks(cls) -> None:
        """Skip where there is no machine for the images."""
        super().skip_checks()
        if not CONF.ironic_snapshot.spare_nodes:
            raise cls.skipException("no spare_nodes are named in [ironic_snapshot]")

    @classmethod
    def resource_setup(cls) -> None:
        """Let the project own the spare nodes, too."""
        super().resource_setup()
        cls.spares = [cls._own(node, base.AVAILABLE) for node in CONF.ironic_snapshot.spare_nodes]

    @decorators.idempotent_id("0b0f4b6f-1e5b-4a0c-8b44-1f6f0d0f5c11")
    def test_a_backup_is_put_back(self) -> None:
        """A node is backed up; its image is put onto another machine, and back onto itself."""
        backup = self.snapshot()
        self.deploy([self.spares[0]], backup)
        before = self.look(self.node)["instance_info"]
        self.addCleanup(self.change, self.node, {"/instance_info": before})
        self.start_deployment(self.node, backup, "rebuild")
        self.wait_for(self.node, base.ACTIVE, timeout_s=CONF.ironic_snapshot.deploy_timeout)

    @decorators.idempotent_id("5d0d3c55-5e0b-4f3b-a4f3-1f2d4f1c9a02")
    def test_a_master_image_is_applied_to_similar_machines(self) -> None:
        """An image of a node that was customized is applied to all the others."""
        self.deploy(self.spares, self.snapshot())

    @decorators.idempotent_id("a9e2c6d1-5f70-4b8d-93ce-4d7b0f1e6a17")
    def test_an_instance_is_undeployed_in_mid_snapshot(self) -> None:
        """The snapshot ends with the instance, whose machine is available; its image waits."""
        [spare, *_others] = self.spares
        self.deploy([spare], self.snapshot())
        image = self.new_image()
        self.ask(image, spare)
        timeout_s = CONF.ironic_snapshot.snapshot_timeout
        self.wait_for(spare, self.way.waiting, timeout_s=timeout_s)
        self.undeploy(spare)
        self.assertEqual("queued", self.images.show_image(image)["status"])

    def deploy(self, nodes: Sequence[base.Node], image: Mapping[str, Any]) -> None:
        """Deploy an image to nodes at once, and return when they are active."""
        self.share(image)
        for node in nodes:
            self.addCleanup(self.undeploy, node)
            self.start_deployment(node, image, "active")
        for node in nodes:
            self.wait_for(node, base.ACTIVE, timeout_s=CONF.ironic_snapshot.deploy_timeout)

    def share(self, image: Mapping[str, Any]) -> None:
        """Let the conductor's project see an image: Ironic 39 deploys no private ones of others."""
        if project := CONF.ironic_snapshot.upload_project:
            shared = [{"replace": "/visibility", "value": "shared"}]
            self.images.update_image(image["id"], shared)
            members = self.os_project_member.image_member_client_v2
            members.create_image_member(image["id"], member=project)

    def start_deployment(self, node: base.Node, image: Mapping[str, Any], target: str) -> None:
        """Ask for an image, as a member of the project that owns it and the node."""
        # What Ironic, or somebody, wrote about the image before does not hold for this one.
        kept = {
            key: value
            for key, value in self.look(node)["instance_info"].items()
            if not key.startswith("image_")
        }
        self.change(node, {"/instance_info": {**kept, "image_source": image["id"]}})
        self.member.set_provision_state(node["uuid"], target)

    def undeploy(self, node: base.Node) -> None:
        """Make a node available again, however far its deployment came."""
        if self.look(node)["provision_state"] == base.AVAILABLE:
            return
        self.patiently(lambda: self.admin.set_provision_state(node["uuid"], "deleted"))
        self.wait_for(node, base.AVAILABLE, timeout_s=CONF.ironic_snapshot.deploy_timeout)
