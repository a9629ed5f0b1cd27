# SPDX-License-Identifier: Apache-2.0
"""What the operator's guide tells to type is typed here, with the laboratory's names and places."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator, Mapping

import pytest

import conductor_client.errors
import ipa_snapshot.errors
import snapshot_core.errors
from snapshot_core.credentials import Credentials
from tests.functional.commands import Outcome, finish, path
from tests.functional.conftest import same_files
from tests.lab import certificates, disks, machines, nodes
from tests.lab.agent import Agent, FakeDisk
from tests.lab.apache import Apache
from tests.lab.disk_maker import MIB
from tests.lab.glance import Glance
from tests.lab.ironic import Ironic
from tests.lab.machines import Machine

ROOT = pathlib.Path(__file__).parents[2]
GUIDE = (ROOT / "docs/operators-guide.rst").read_text(encoding="utf-8")
HERE = str(pathlib.Path(__file__).relative_to(ROOT))
_BLOCK = re.compile(
    r"^\.\. run by (?P<file>\S+)::(?P<test>\w+)\n\.\. code-block:: console\n\n"
    r"(?P<lines>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
_PROMPT = re.compile(r"^[$#] ", re.MULTILINE)
STORAGE_URL = "https://storage.example.org/snapshots"
JUNK = b"\xff" * MIB


def scripts(request: pytest.FixtureRequest) -> list[str]:
    """Return the console blocks that the guide says this test runs, without their prompts."""
    return [
        _PROMPT.sub("", re.sub("^   ", "", block["lines"], flags=re.MULTILINE))
        for block in _BLOCK.finditer(GUIDE)
        if (block["file"], block["test"]) == (HERE, request.node.name)
    ]


def start(
    script: str,
    names: Mapping[str, object],
    where: pathlib.Path,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """Start a block in a directory, with each of its ``names`` replaced by the laboratory's."""
    for name, value in names.items():
        assert name in script
        script = script.replace(name, str(value))
    env = {**os.environ, **(environment or {})}
    commands = [str(pathlib.Path(path("ipa-snapshot")).parent), env["PATH"]]
    return subprocess.Popen(
        ["bash", "-euc", script], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**env, "PATH": os.pathsep.join(commands)},
    )  # fmt: skip


def done(command: "subprocess.Popen[str]") -> Outcome:
    """Wait for a block, which must not fail."""
    outcome = finish(command)
    assert outcome.code == 0, outcome.err
    return outcome


def test_every_command_of_the_guide_is_run_by_a_test_that_exists() -> None:
    blocks = list(_BLOCK.finditer(GUIDE))
    assert len(blocks) == GUIDE.count("code-block:: console") > 0
    for block in blocks:
        assert "def %s(" % block["test"] in (ROOT / block["file"]).read_text(encoding="utf-8")


def test_the_guide_says_of_every_error_what_to_do() -> None:
    table = GUIDE[GUIDE.index(".. errors\n") :]
    told = re.findall(r"^   \* - ``(\w+)``$", table, re.MULTILINE)
    modules = (snapshot_core.errors, ipa_snapshot.errors, conductor_client.errors)
    known = {
        name
        for module in modules
        for name, value in vars(module).items()
        # Those that derive from others have the others' words.
        if isinstance(value, type) and snapshot_core.errors.SnapshotError in value.__bases__
    }
    assert len(told) == len(set(told))
    assert set(told) == known


def test_the_accounts_that_the_guide_makes_are_usable(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    (script,) = scripts(request)
    places = {name: tmp_path / name.strip("/") for name in ("/srv/", "/var/lib/apache2/", "/etc/")}
    (tmp_path / "etc/apache2").mkdir(parents=True)
    done(start(script, {name: "%s/" % place for name, place in places.items()}, tmp_path))
    users = tmp_path / "etc/apache2/snapshots.users"
    assert (users.group(), users.stat().st_mode & 0o777) == ("www-data", 0o640)
    for name in ("machine", "conductor"):
        account = Credentials.read(str(tmp_path / (name + ".yaml")))
        assert account.to_wire()["username"] == name
        password = account.to_wire()["password"]
        disks.run("htpasswd", "-vi", users, name, stdin=password)
    assert (tmp_path / "srv/snapshots").owner() == "www-data"


@pytest.fixture
def ironic(glance: Glance, tmp_path: pathlib.Path) -> Iterator[Ironic]:
    with machines.recording(), Apache(tmp_path / "http", None, tls=False) as images:
        # From there the ramdisk gets the images that the conductor has made raw.
        served = f"[deploy]\nhttp_root = {tmp_path / 'http'}\nhttp_url = {images.url}\n"
        config = machines.RECORDED + served
        with Ironic(tmp_path / "ironic", glance.url, extra_config=config) as server:
            yield server


@pytest.fixture
def storage(tmp_path: pathlib.Path) -> Iterator[machines.Storage]:
    with machines.Storage(tmp_path / "storage") as server:
        yield server


def test_a_snapshot_through_ironic_is_restored_in_three_ways(
    request: pytest.FixtureRequest, ironic: Ironic, storage: machines.Storage, glance: Glance,
    small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    set_ramdisk, snapshot, share, rebuild, deploy, by_hand = scripts(request)
    client = str(pathlib.Path(ironic.openstack_command()[0]).parent)
    environment = {
        **ironic.environment(),
        "PATH": os.pathsep.join([client, os.environ["PATH"]]),
    }
    machine = Machine(ironic, storage, small_disk, "node-1")
    # Without the checksum, as a node that was deployed with an image of Glance's.
    machine.node.cloud.baremetal.update_node(machine.node.uuid, instance_info={})
    other = nodes.enrol(ironic, "node-2")
    other.provision("deleted")
    other.wait_for("available")

    done(start(set_ramdisk, {}, tmp_path, environment))
    assert machine.node.record().driver_info["deploy_ramdisk"].endswith("/ipa.initramfs")

    names = {
        STORAGE_URL: storage.url, "conductor.yaml": storage.account("conductor"),
        "ca.pem": storage.cacert,
    }  # fmt: skip
    command = start(snapshot, names, tmp_path, environment)
    with machine.ramdisk():
        done(command)
    [image] = glance.connection().image.images(name="node-1-before-repair")
    assert (image.status, machine.node.record().provision_state) == ("active", "active")
    assert storage.names() == []

    # Ironic gives out a private image for its requester's token, and here nobody has one.
    done(start(share, {}, tmp_path, environment))
    # What the ramdisk does then is Ironic's own, and is seen in tests/machine.
    for script, node in ((rebuild, machine.node), (deploy, other)):
        done(start(script, {}, tmp_path, environment))
        waiting = node.wait_for("wait call-back")
        assert waiting.instance_info["image_source"] == image.id

    target = tmp_path / "target.raw"
    target.write_bytes(JUNK * (small_disk.size // MIB + 100))
    with disks.LoopDevice(target) as loop:
        done(start(by_hand, {"/dev/sdX": loop.path}, tmp_path, environment))
    assert_restored(small_disk, target)


def assert_restored(disk: disks.Disk, target: pathlib.Path) -> None:
    """See that a larger disk has the partitions of the original, and nothing of its own before."""
    assert "No problems found" in disks.run("sgdisk", "--verify", target)
    for partition in disk.partitions:
        assert disks.checksums(target, partition) == disks.checksums(disk.path, partition)
        with target.open("rb") as file:
            file.seek(partition.offset)
            assert JUNK[:4096] not in file.read(partition.size)


@pytest.fixture
def account(tmp_path: pathlib.Path) -> Iterator[dict[str, object]]:
    """The names by which the guide calls a storage with one account, and what they are here."""
    file = tmp_path / "account.yaml"
    file.touch(mode=0o600)
    file.write_text("username: snapshot\npassword: secret\n")
    with Apache(tmp_path / "store") as server:
        yield {STORAGE_URL: server.url, "storage.yaml": file, " ca.pem": " %s" % server.cacert}


def test_a_snapshot_through_an_agent_alone_is_the_disk(
    request: pytest.FixtureRequest, account: dict[str, object], disk: disks.Disk,
    fake_disk: FakeDisk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    (script,) = scripts(request)
    certs = certificates.issue(tmp_path)
    token = tmp_path / "secret-token"
    token.touch(mode=0o600)
    with Agent([fake_disk], tls=(certs.cert, certs.key)) as agent:
        token.write_text(agent.token)
        names = {
            "https://192.0.2.10:9999": agent.url, "-file token": "-file %s" % token,
            "agent-ca.pem": certs.cacert, "/srv/images": tmp_path, **account,
        }  # fmt: skip
        done(start(script, names, tmp_path))
    assert same_files(disk, tmp_path / "node-1.qcow2", tmp_path)


def test_a_snapshot_on_a_live_system_matches_its_manifest(
    request: pytest.FixtureRequest, account: dict[str, object], small_disk: disks.Disk,
    small_loop: str, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    (script,) = scripts(request)
    done(start(script, {"/dev/sda": small_loop, **account}, tmp_path))
    image = tmp_path / "store/node-1.qcow2"
    manifest = json.loads((tmp_path / "store/node-1.qcow2.json").read_text())
    assert hashlib.sha512(image.read_bytes()).hexdigest() == manifest["checksum"]["value"]
    assert same_files(small_disk, image, tmp_path)


GONE = (
    "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/nvme/hostnqn",
    "etc/iscsi/initiatorname.iscsi", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
    "var/lib/dhcp/dhclient.leases", "var/lib/cloud/instances/i-1/user-data.txt",
    "root/.bash_history", "home/operator/.bash_history",
)  # fmt: skip
EMPTIED = ("etc/machine-id", "var/log/syslog", "var/log/journal/0123/system.journal")
KEPT = ("etc/ssh/sshd_config", "etc/hostname", "var/lib/cloud/seed/nocloud/meta-data")


def test_a_master_image_has_no_identity_and_keeps_the_rest(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    (script,) = scripts(request)
    system = tmp_path / "system"
    for name in (*GONE, *EMPTIED, *KEPT):
        file = system / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("content")
    places = {" %s" % top: " %s%s" % (system, top) for top in ("/etc", "/var", "/root", "/home")}
    done(start(script, places, tmp_path))
    left = {str(file.relative_to(system)) for file in system.rglob("*") if file.is_file()}
    assert left == {*EMPTIED, *KEPT}
    assert {name: (system / name).read_text() for name in EMPTIED} == dict.fromkeys(EMPTIED, "")
    assert {name: (system / name).read_text() for name in KEPT} == dict.fromkeys(KEPT, "content")
