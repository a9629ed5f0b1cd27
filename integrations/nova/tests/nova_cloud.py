# SPDX-License-Identifier: Apache-2.0
"""Nova itself, in this process: API, conductor, scheduler and compute service, and bare metal."""

import pathlib
import secrets
import sys
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

import fixtures
import nova.conf
import pytest
from nova import context as nova_context
from nova import objects, test
from nova.tests import fixtures as nova_fixtures
from nova.tests.functional import fixtures as functional_fixtures
from nova.tests.functional import integrated_helpers
from nova.tests.functional.api.client import OpenStackApiNotFoundException
from nova.virt import ironic_snapshot
from openstack import proxy
from urllib3 import connection, connectionpool

from tests.lab import conductors, disks, nodes
from tests.lab.agent import Lookup
from tests.lab.ironic import Ironic
from tests.lab.machines import SERIAL, Machine, wait_until

CONF = nova.conf.CONF
COMPUTE = "compute-of-bare-metal"
# What an image of a partition has, what a snapshot inherits, and what it must not.
BASE_PROPERTIES = {"os_distro": "debian", "hw_boot_mode": "uefi"}
SIGNATURE = {"img_signature": "c2lnbmVk", "img_signature_hash_method": "SHA-256"}


class API(nova_fixtures.OSAPIFixture):
    """Nova's API, whose fake of Keystone's middleware gives each request a token for Glance."""

    def _stub_keystone(self) -> None:
        super()._stub_keystone()

        def context_of(env: dict[str, str], **attributes: Any) -> nova_context.RequestContext:
            user, project = env["HTTP_X_AUTH_USER"], env["HTTP_X_AUTH_PROJECT_ID"]
            token = "%s:%s:%s" % (user, project, env["HTTP_X_ROLES"])
            return nova_context.RequestContext(
                user, project, is_admin=user == "admin", roles=env["HTTP_X_ROLES"].split(","),
                **{**attributes, "auth_token": token},
            )  # fmt: skip

        self.useFixture(
            fixtures.MonkeyPatch("nova.api.auth.NovaKeystoneContext._create_context", context_of)
        )


class SDK(nova_fixtures.OpenStackSDKFixture):
    """Nova's own fixture, whose fake of all endpoints is left to its Placement: ours are real."""

    def setUp(self) -> None:
        real = proxy.Proxy.get_endpoint
        super().setUp()
        fake = proxy.Proxy.get_endpoint

        def get_endpoint(adapter: proxy.Proxy, *args: Any, **kwargs: Any) -> Any:
            if adapter.service_type == "placement":
                return fake()
            return real(adapter, *args, **kwargs)

        self.useFixture(fixtures.MonkeyPatch("openstack.proxy.Proxy.get_endpoint", get_endpoint))


class CloudTestCase(test.TestCase, integrated_helpers.PlacementInstanceHelperMixin):
    """A Nova with one compute service, which has our driver; and servers on real nodes."""

    @pytest.fixture(autouse=True)
    def _surroundings(
        self, backends: conductors.Backends, bare_metal: Ironic, small_disk: disks.Disk,
        tmp_path: pathlib.Path,
    ) -> Iterator[None]:  # fmt: skip
        self.__dict__["_lab"] = (backends, bare_metal, small_disk, tmp_path)
        yield
        backends.gate.forget()

    def setUp(self) -> None:
        with mock.patch.object(nova_fixtures, "OpenStackSDKFixture", SDK):
            super().setUp()
        self.backends, self.ironic, self.disk, self.scratch = self._lab
        name = ironic_snapshot.IronicSnapshotDriver.__name__
        self.flags(compute_driver="ironic_snapshot.%s" % name)
        self.flags(endpoint_override=self.backends.gate.url, group="glance")
        self.flags(auth_type="none", endpoint_override=self.ironic.url, group="ironic")
        self.flags(api_retry_interval=1, group="ironic")
        paste = pathlib.Path(sys.prefix, "etc/nova/api-paste.ini")
        self.flags(api_paste_config=str(paste), group="wsgi")
        self.useFixture(nova_fixtures.RealPolicyFixture())
        self.useFixture(nova_fixtures.NeutronFixture(self))
        self.placement = self.useFixture(functional_fixtures.PlacementFixture()).api
        self.useFixture(nova_fixtures.AllServicesCurrent())
        self.useFixture(nova_fixtures.NotificationFixture(self))
        self.api_fixture = self.useFixture(API(api_version="v2.1"))
        # wsgi-intercept, through which Nova's fixtures reach their APIs, loses whom others trust.
        connectionpool.HTTPSConnectionPool.ConnectionCls = connection.HTTPSConnection
        self.api, self.admin_api = self.api_fixture.api, self.api_fixture.admin_api
        self.api.microversion = self.admin_api.microversion = "latest"
        self.project = self.api_fixture.project_id
        self.glance = self.backends.glance.connection().image
        self.start_service("conductor")
        self.start_service("scheduler")
        # Nova waits for its threads, whatever the test came to.
        self.addCleanup(self._end_snapshots)

    def _end_snapshots(self) -> None:
        for compute in self.computes.values():
            for running in list(compute.manager.driver._snapshots.values()):
                running.end(timeout_s=60)

    def _clear_attrs(self) -> None:
        """Leave pytest its own attributes of a test."""

    def use_storage(self, url: str | None = None) -> None:
        """Let the compute service know the storage of the ramdisks, by another URL if given."""
        self.flags(
            storage_url=url or self.backends.storage.url,
            storage_auth_file=str(self.backends.storage.account("conductor")),
            storage_cacert=str(self.backends.storage.cacert),
            shutdown_timeout=10,
            group="ironic_snapshot",
        )

    def make_server(self, **attributes: Any) -> "Server":
        """Return an active server on a node of its own, with further attributes of that node."""
        node = self._enrol(**attributes)
        if COMPUTE not in self.computes:
            self._start_compute(COMPUTE)
        self._run_periodics()
        flavor = self._create_flavor(
            vcpu=1, memory_mb=64, disk=1,
            extra_spec={
                "resources:CUSTOM_BAREMETAL": "1", "resources:VCPU": "0",
                "resources:MEMORY_MB": "0", "resources:DISK_GB": "0",
            },
        )  # fmt: skip
        wanted = self._build_server(
            image_uuid=self._base_image(), flavor_id=flavor, networks="none"
        )
        server = Server(self, self.api.post_server({"server": wanted})["id"], node)
        server.wait_for("ACTIVE", None)
        # The agent's interface has service steps, and the fake deployed without an agent.
        cloud = node.cloud.baremetal
        cloud.set_node_maintenance(node.uuid, reason="to change an interface")
        cloud.update_node(node.uuid, deploy_interface="direct")
        cloud.unset_node_maintenance(node.uuid)
        self._run_periodics()
        return server

    def _enrol(self, **attributes: Any) -> nodes.Node:
        cloud = self.ironic.connection()
        # Those of other tests, whose servers are gone.
        for other in cloud.baremetal.nodes(provision_state="available"):
            cloud.baremetal.delete_node(other)
        mac = "52:54:00:" + secrets.token_bytes(3).hex(":")
        made = cloud.baremetal.create_node(
            name="machine-%s" % uuid.uuid4(), driver="fake-hardware",
            driver_info={
                "deploy_kernel": "http://127.0.0.1:1/kernel",
                "deploy_ramdisk": "http://127.0.0.1:1/ramdisk",
            },
            resource_class="baremetal", deploy_interface="fake",
            boot_interface="recorded", network_interface="recorded",
            properties={
                "root_device": {"serial": SERIAL}, "cpu_arch": "x86_64", "cpus": 1,
                "memory_mb": 64, "local_gb": 1,
            },
            **attributes,
        )  # fmt: skip
        cloud.baremetal.create_port(node_id=made.id, address=mac)
        node = nodes.Node(cloud, made.id, Lookup(self.ironic.url, mac))
        for target, state in (("manage", "manageable"), ("provide", "available")):
            node.provision(target)
            node.wait_for(state)
        # The fake power interface knows of no state before it was told one.
        cloud.baremetal.set_node_power_state(made.id, "power on")
        node.wait_until("on", lambda record: record.power_state == "power on")
        node.wait_for("available")
        return node

    def _base_image(self) -> str:
        made = self.glance.create_image(
            name="base", allow_duplicates=True, visibility="public", disk_format="raw",
            container_format="bare", data=b"base", **BASE_PROPERTIES, **SIGNATURE,
        )  # fmt: skip
        return str(made.id)


class Server(Machine):
    """A server of Nova's, on the node where it was put.

    :ivar id: the server's UUID.
    """

    def __init__(self, cloud: CloudTestCase, server_id: str, node: nodes.Node) -> None:
        self.id = server_id
        self.node = node
        self.ironic = cloud.ironic
        self._cloud = cloud
        self._storage = cloud.backends.storage
        self._disk = cloud.disk
        self._adopted = len(self._recorded()), len(self._powers())

    def act(self, action: str, **arguments: object) -> dict[str, Any]:
        """Ask for one of the actions of the API, and return its answer."""
        found: dict[str, Any] = self._cloud.api.post_server_action(
            self.id, {action: arguments or None}
        )
        return found

    def create_image(self) -> str:
        """Ask for a snapshot and return the UUID of its image."""
        return str(self.act("createImage", name="master")["image_id"])

    @property
    def state(self) -> tuple[str, str | None]:
        """The server's status and its task."""
        shown = self._cloud.api.get_server(self.id)
        return shown["status"], shown["OS-EXT-STS:task_state"]

    def wait_for(self, status: str, task: str | None, timeout_s: float = 90) -> None:
        """Return as soon as it is in this state."""
        wait_until("%s, %s" % (status, task), lambda: self.state == (status, task), timeout_s)

    def wait_until_gone(self) -> None:
        """Return as soon as Nova does not know it any more, nor Ironic."""
        wait_until("gone", self._is_gone)
        found = self.node.wait_for("available")
        assert found.instance_id is None

    def _is_gone(self) -> bool:
        try:
            status, _task = self.state
        except OpenStackApiNotFoundException:
            return True
        assert status != "ERROR"
        return False

    def fault(self) -> str:
        """Return what Nova remembers of its last failure."""
        cell = self._cloud.cell_mappings["cell1"]
        with nova_context.target_cell(nova_context.get_admin_context(), cell) as context:
            faults = objects.InstanceFaultList.get_by_instance_uuids(context, [self.id])
        return str(faults[0].message)
