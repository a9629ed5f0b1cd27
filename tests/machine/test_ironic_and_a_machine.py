# SPDX-License-Identifier: Apache-2.0
"""The whole way once: a real Ironic, the ramdisk in a machine, and a real Glance.

The machine's agent looks its node up in Ironic, makes a certificate, and sends heartbeats with it:
from there on Ironic speaks https to the agent, and verifies that certificate.
"""

import json
import pathlib
from collections.abc import Iterator

import pytest

from tests.functional.conftest import same_files
from tests.lab import certificates, disk_maker, disks, machines, processes
from tests.lab.glance import Glance
from tests.lab.ironic import Ironic
from tests.machine import machine, ramdisk, tempting_disk
from tests.machine.machine import STORAGE, Drive

# Emulated: what takes seconds on a machine takes minutes here, and each boot some of them.
pytestmark = pytest.mark.timeout(1800)
_PATIENCE_S = 1200
_CONFIG = """\
[DEFAULT]
debug = true
[ipa_snapshot]
storage_url = {url}
cacert = /etc/ipa-snapshot/ca.pem
auth_file = /etc/ipa-snapshot/account.yaml
"""


class _Storage(machines.Storage):
    """The storage with its two accounts, by the name that it has in the machine."""

    def _prepare(self) -> processes.Server:
        server = super()._prepare()
        certificates.issue(self.state, STORAGE, "127.0.0.1")
        return server

    def ramdisk_files(self) -> dict[str, str]:
        """Return what the ramdisk is to know of it; nothing of the agent's but that."""
        url = f"https://{STORAGE}:{self.port}/snapshots"
        assert self.cacert is not None
        return {
            "etc/ironic-python-agent.d/lab.conf": _CONFIG.format(url=url),
            "etc/ipa-snapshot/ca.pem": self.cacert.read_text(),
            "etc/ipa-snapshot/account.yaml": self.account("machine").read_text(),
        }


class _Booted(machine.Machine):
    """The machine as Ironic boots it: the kernel's parameters say where Ironic is.

    The agent announces itself by the address that QEMU forwards to it.
    """

    def __init__(
        self, ramdisk: ramdisk.Ramdisk, drive: Drive, ironic: Ironic, storage: _Storage
    ) -> None:
        # Without a token: it is given one by Ironic.
        super().__init__(ramdisk, [drive], "", files=storage.ramdisk_files())
        self.url = self.url.replace("http:", "https:")
        self._probe = self._probe.replace("http:", "https:")
        self._parameters += [
            f"ipa-api-url=http://10.0.2.2:{ironic.port}",
            "ipa-advertise-host=127.0.0.1",
            f"ipa-advertise-port={self.port}",
        ]


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> disks.Disk:
    return disk_maker.make_disk(
        tmp_path / "disk.raw", 600 * disk_maker.MIB, data_mib=20, junk_mib=20
    )


@pytest.fixture
def glance(tmp_path: pathlib.Path) -> Iterator[Glance]:
    with Glance(tmp_path / "glance") as server:
        yield server


@pytest.fixture
def ironic(tmp_path: pathlib.Path, glance: Glance) -> Iterator[Ironic]:
    with (
        machines.recording(),
        Ironic(tmp_path / "ironic", glance.url, extra_config=machines.RECORDED) as server,
    ):
        yield server


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[_Storage]:
    with _Storage(tmp_path / "storage") as server:
        yield server


def test_a_node_s_disk_comes_through_ironic_into_glance_and_the_node_is_active_again(
    built: ramdisk.Ramdisk, disk: disks.Disk, ironic: Ironic, storage: _Storage, glance: Glance,
    tmp_path: pathlib.Path, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    before = tempting_disk.digest(disk.path)
    node = machines.Machine(ironic, storage, disk, "emulated")
    node.node.cloud.baremetal.create_port(node_id=node.node.uuid, address=machine.MAC)

    command = node.snapshot("--create", "emulated", "-f", "json")
    request.addfinalizer(command.kill)
    node.node.wait_for("service wait")
    with _Booted(built, Drive(disk.path, machines.SERIAL), ironic, storage) as booted:
        known = node.node.wait_until(
            "known by its agent", lambda now: "agent_url" in now.driver_internal_info
        ).driver_internal_info
        assert known["agent_url"] == booted.url
        assert known["agent_verify_ca"].endswith(node.node.uuid + ".crt")
        out, err = command.communicate(timeout=_PATIENCE_S)

    assert command.returncode == 0, err
    result = json.loads(out)
    stored = glance.connection().image.get_image(result["image_ref"])
    assert (stored.status, stored.hash_value) == ("active", result["sha512"])
    assert same_files(disk, glance.images / stored.id, tmp_path)
    assert result["captured"]["device"]["serial"] == machines.SERIAL
    after = node.node.record()
    assert (after.provision_state, after.power_state) == ("active", "power on")
    assert node.hardware() == [*machines.THERE, *machines.AND_BACK]
    assert storage.names() == []
    assert tempting_disk.digest(disk.path) == before
