# SPDX-License-Identifier: Apache-2.0
"""What the scenarios have in common: a node of the tests' own, its snapshots, and its way back."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from tempest import config, test
from tempest.lib import exceptions as lib_exc
from tempest.lib.common.utils import data_utils, test_utils

CONF = config.CONF
ACTIVE, AVAILABLE = "active", "available"
Node = Mapping[str, Any]


class Verb:
    """A snapshot as the specification of Ironic has it, with states of its own."""

    waiting, failed = "snapshot wait", "snapshot failed"

    @staticmethod
    def request(image: str) -> dict[str, Any]:
        """Return what the node is asked for."""
        return {"target": "snapshot", "image_ref": image}


class ServiceStep:
    """A snapshot as a service with a step of the vendor interface, on an unmodified Ironic."""

    waiting, failed = "service wait", "service failed"

    @staticmethod
    def request(image: str) -> dict[str, Any]:
        """Return what the node is asked for."""
        step = {"interface": "vendor", "step": "snapshot", "args": {"image_ref": image}}
        return {"target": "service", "service_steps": [step]}


class SnapshotTest(test.BaseTestCase):
    """Snapshots of the node, by a member of the project that owns it."""

    credentials = ("project_member", "project_reader", "project_alt_member", "system_admin")

    @classmethod
    def skip_checks(cls) -> None:
        """Skip where there is no node or no Glance."""
        super().skip_checks()
        if not CONF.ironic_snapshot.node:
            raise cls.skipException("no node is named in [ironic_snapshot]")
        if not CONF.service_available.glance:
            raise cls.skipException("the images go to Glance, which is not available")

    @classmethod
    def setup_credentials(cls) -> None:
        """Make accounts, and no networks for them."""
        cls.set_network_resources()
        super().setup_credentials()

    @classmethod
    def setup_clients(cls) -> None:
        """Make a client of Ironic for each account."""
        super().setup_clients()
        cls.member = cls.os_project_member.baremetal_snapshot.BaremetalClient()
        cls.reader = cls.os_project_reader.baremetal_snapshot.BaremetalClient()
        cls.stranger = cls.os_project_alt_member.baremetal_snapshot.BaremetalClient()
        cls.admin = cls.os_system_admin.baremetal_snapshot.BaremetalClient()
        cls.images = cls.os_project_member.image_client_v2

    @classmethod
    def resource_setup(cls) -> None:
        """Let the project own the node, while the tests last."""
        super().resource_setup()
        cls.node = cls._own(CONF.ironic_snapshot.node, ACTIVE)
        cls.way = cls._way(cls.node)

    @classmethod
    def _way(cls, node: Node) -> type[Verb] | type[ServiceStep]:
        chosen = node.get("snapshot_interface")
        if chosen is None:
            # A node from before the upgrade shows none until Ironic saves it, and has the default.
            found = cls.admin.validate_node(node["uuid"]).get("snapshot")
            by_verb = bool(found and found["result"])
        else:
            by_verb = chosen != "no-snapshot"
        if by_verb:
            return Verb
        if node["vendor_interface"] == "snapshot":
            return ServiceStep
        raise cls.skipException("no conductor takes snapshots of the node %s" % node["uuid"])

    @classmethod
    def _own(cls, ident: str, state: str) -> Node:
        """Let the project own a node, which must be in a state, and return the node."""
        node = cls.admin.show_node(ident)
        if node["provision_state"] != state or node["maintenance"]:
            raise lib_exc.InvalidConfiguration(
                "the node %s is %s%s, expected %s"
                % (ident, node["provision_state"], " in maintenance" * node["maintenance"], state)
            )
        cls.change(node, {"/owner": cls.os_project_member.credentials.project_id})
        cls.addClassResourceCleanup(cls.change, node, {"/owner": node["owner"]})
        return node

    @classmethod
    def change(cls, node: Node, values: Mapping[str, Any]) -> None:
        """Change fields of a node, as soon as no conductor holds its lock; None removes one."""
        patch = [
            {"op": "remove", "path": path}
            if value is None
            else {"op": "add", "path": path, "value": value}
            for path, value in values.items()
        ]
        cls.patiently(lambda: cls.admin.update_node(node["uuid"], patch))

    @classmethod
    def patiently(cls, ask: Callable[[], Any]) -> Any:
        """Ask Ironic again for a while, as long as the node is locked."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return ask()
            except lib_exc.Conflict:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def new_image(
        self, disk_format: str = "qcow2", visibility: str = "private", images: Any = None
    ) -> str:
        """Make an image without data, and return its ID.

        After the test it is deleted, once no snapshot goes into it any more.

        :param images: whose it is; by default the project's that owns the node.
        """
        images = images or self.images
        made = images.create_image(
            name=data_utils.rand_name("snapshot", prefix=CONF.resource_name_prefix),
            container_format="bare",
            disk_format=disk_format,
            visibility=visibility,
        )
        self.addCleanup(test_utils.call_and_ignore_notfound_exc, images.delete_image, made["id"])
        self.addCleanup(self.bring_back)
        found: str = made["id"]
        return found

    def ask(self, image: str, node: Node | None = None) -> None:
        """Ask for a snapshot, by default of the node, as a member of the project that owns it."""
        uuid, request = (node or self.node)["uuid"], self.way.request(image)
        self.patiently(lambda: self.member.set_provision_state(uuid, **request))

    def snapshot(self, image: str | None = None) -> Mapping[str, Any]:
        """Take a snapshot into an image, by default a new one, and return that."""
        image = image or self.new_image()
        self.ask(image)
        self.wait_for(self.node, ACTIVE, timeout_s=CONF.ironic_snapshot.snapshot_timeout)
        found: Mapping[str, Any] = self.images.show_image(image)
        self.assertEqual("active", found["status"])
        self.assertEqual("sha512", found["os_hash_algo"])
        self.assertEqual("qcow2", found["disk_format"])
        self.assertEqual("private", found["visibility"])
        return found

    def fail_to_snapshot(self, image: str, word: str) -> None:
        """Ask for a snapshot that does not come about, and see that it is told why.

        It may be refused at once, or fail later.
        """
        try:
            self.ask(image)
        except lib_exc.BadRequest as refusal:
            self.assertIn(word, str(refusal))
            self.assertEqual(ACTIVE, self.look(self.node)["provision_state"])
            return
        self.assert_failed(word)

    def assert_failed(self, word: str) -> None:
        """Wait until the snapshot that was asked for has failed, and see that it is told why."""
        failed = self.wait_for(
            self.node, self.way.failed, timeout_s=CONF.ironic_snapshot.snapshot_timeout
        )
        self.assertIn(word, failed["last_error"])

    def assert_back(self, image: str, images: Any = None) -> None:
        """See that the node is as before, once its failure is over, and that the image waits.

        :param images: whose it is; by default the project's that owns the node.
        """
        self.bring_back()
        node = self.look(self.node)
        self.assertEqual((ACTIVE, "power on"), (node["provision_state"], node["power_state"]))
        self.assertEqual((False, None), (node["maintenance"], node["fault"]))
        self.assertEqual("queued", (images or self.images).show_image(image)["status"])

    def bring_back(self) -> None:
        """Return as soon as the node is active, and abort its snapshot if that still goes on."""
        deadline = time.monotonic() + CONF.ironic_snapshot.snapshot_timeout
        while time.monotonic() < deadline:
            node = self.look(self.node)
            state = node["provision_state"]
            if state == ACTIVE and node["reservation"] is None:
                return
            if state in (self.way.failed, self.way.waiting) and node["reservation"] is None:
                # Another one may have been quicker.
                with contextlib.suppress(lib_exc.Conflict, lib_exc.BadRequest):
                    if node["maintenance"]:
                        self.admin.unset_maintenance(node["uuid"])
                    self.member.set_provision_state(node["uuid"], "abort")
            time.sleep(CONF.ironic_snapshot.poll_interval)
        self.fail("the node %s is %s and not active" % (self.node["uuid"], state))

    def look(self, node: Node) -> Node:
        """Return a node as it is now."""
        found: Node = self.admin.show_node(node["uuid"])
        return found

    def wait_for(self, node: Node, state: str, *, timeout_s: float) -> Node:
        """Return a node as soon as it is in a provision state, and no conductor holds its lock.

        What lasts, a failure or an active node, is not waited for to become something else.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            now = self.look(node)
            if now["reservation"] is None:
                if now["provision_state"] == state:
                    return now
                if now["provision_state"].endswith((ACTIVE, " failed", "error")):
                    self.fail(
                        "the node %s is %s, expected %s: %s"
                        % (node["uuid"], now["provision_state"], state, now["last_error"])
                    )
            if time.monotonic() > deadline:
                raise lib_exc.TimeoutException(
                    "the node %s is %s after %d s, expected %s"
                    % (node["uuid"], now["provision_state"], timeout_s, state)
                )
            time.sleep(CONF.ironic_snapshot.poll_interval)
