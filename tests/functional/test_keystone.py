# SPDX-License-Identifier: Apache-2.0
"""``openstack baremetal node snapshot`` where a real Keystone tells who may do what."""

import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.functional.commands import Outcome, finish
from tests.functional.conftest import same_files
from tests.lab import disks, links, machines
from tests.lab.glance import Glance
from tests.lab.ironic import Ironic
from tests.lab.keystone import Account, Keystone
from tests.lab.machines import AND_BACK, THERE, Machine, Storage

OWNER, LESSEE, STRANGERS = "owner", "lessee", "strangers"
# Of docs/service-step.rst.
POLICY = pathlib.Path(__file__).parents[2] / "docs/service-step.rst"
Enrol = Callable[..., Machine]


@pytest.fixture(scope="module")
def glance(tmp_path_factory: pytest.TempPathFactory, keystone: Keystone) -> Iterator[Glance]:
    with Glance(tmp_path_factory.mktemp("glance"), keystone=keystone) as server:
        yield server


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with Storage(tmp_path_factory.mktemp("storage")) as server:
        yield server


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The file with the rules of Ironic's API that are not the default ones."""
    path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    path.write_text("{}\n")
    return path


@pytest.fixture(scope="module")
def ironic(
    tmp_path_factory: pytest.TempPathFactory, keystone: Keystone, glance: Glance, storage: Storage,
    policy: pathlib.Path,
) -> Iterator[Ironic]:  # fmt: skip
    config = f"""\
{machines.RECORDED}
enabled_vendor_interfaces = snapshot,no-vendor
[oslo_policy]
policy_file = {policy}
[snapshot]
storage_url = {storage.url}
storage_ca = {storage.cacert}
storage_auth_file = {storage.account("conductor")}
agent_auth_file = {storage.account("machine")}
min_free = 0
poll_interval = 1
clean_up_interval = 2
"""
    where = tmp_path_factory.mktemp("ironic")
    with (
        machines.recording(),
        Ironic(where, glance.url, extra_config=config, keystone=keystone) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def owner(keystone: Keystone) -> Account:
    """A member of the project that owns the nodes."""
    return keystone.account("owner-member", OWNER, "member")


@pytest.fixture(scope="module")
def lessee(keystone: Keystone) -> Account:
    """A member of the project that leases the nodes."""
    return keystone.account("lessee-member", LESSEE, "member")


@pytest.fixture
def enrol(
    request: pytest.FixtureRequest, ironic: Ironic, storage: Storage, small_disk: disks.Disk,
    keystone: Keystone, owner: Account, lessee: Account,
) -> Enrol:  # fmt: skip
    """Return a function that makes a machine, of which the two projects are owner and lessee."""
    name = re.sub(r"\W|_", "-", request.node.name)[5:60]
    projects = {"owner": keystone.project_id(OWNER), "lessee": keystone.project_id(LESSEE)}
    return lambda **attributes: Machine(ironic, storage, small_disk, name, **projects, **attributes)


@pytest.fixture
def machine(enrol: Enrol) -> Machine:
    return enrol()


def start(
    ironic: Ironic, account: Account, *arguments: object, env: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start ``openstack baremetal`` as somebody, and as nobody else."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    return subprocess.Popen(
        ironic.openstack_command("baremetal", *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**others, **account.environment(), **(env or {})},
    )  # fmt: skip


def snapshot(
    machine: Machine, storage: Storage, account: Account, *arguments: object
) -> "subprocess.Popen[str]":
    """Start ``openstack baremetal node snapshot`` as somebody."""
    return start(
        machine.ironic, account, "node", "snapshot", machine.node.uuid, *arguments,
        env=storage.environment(),
    )  # fmt: skip


def image_of(account: Account) -> str:
    """Make an image without data, in the project of an account."""
    made: str = account.connection().image.create_image(name="one", allow_duplicates=True).id
    return made


def status(account: Account, image: str) -> str:
    found: str = account.connection().image.get_image(image).status
    return found


def succeeded(command: "subprocess.Popen[str]") -> Outcome:
    outcome = finish(command)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize("kind", ["password", "token", "application credential"])
def test_a_member_of_the_owner_takes_a_snapshot_by_a(
    kind: str, machine: Machine, storage: Storage, keystone: Keystone, glance: Glance,
    owner: Account, small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    shown = {
        "password": lambda: owner,
        "token": lambda: keystone.token_of(owner),
        "application credential": lambda: keystone.application_credential_of(owner),
    }[kind]()
    command = snapshot(machine, storage, shown, "--create", "one", "-f", "json")
    with machine.ramdisk():
        result = succeeded(command).json
    image = glance.connection().image.get_image(result["image_ref"])
    assert (image.status, image.owner) == ("active", keystone.project_id(OWNER))
    assert image.hash_value == result["sha512"]
    assert same_files(small_disk, glance.images / image.id, tmp_path)
    assert machine.at_home()
    assert storage.names() == []


def tokens_asked_for(keystone: Keystone) -> int:
    return (keystone.state / "uwsgi.log").read_text(errors="replace").count("POST /v3/auth/tokens")


def test_tokens_that_expire_during_capture_and_upload_are_replaced(
    machine: Machine, storage: Storage, keystone: Keystone, owner: Account
) -> None:
    # Longer than any one request takes, also over the slow wire, and shorter than what follows.
    image, expiration_s = image_of(owner), 15
    with keystone.short_tokens(expiration_s):
        before = tokens_asked_for(keystone)
        command = snapshot(machine, storage, owner, "--image", image, "-f", "json")
        with machine.ramdisk(), links.slow("16mbit", "400ms"):
            machine.node.wait_for_step("snapshot")
            began = time.monotonic()
            machines.wait_until("saved", lambda: status(owner, image) == "saving", timeout_s=120)
            captured = time.monotonic()
            machines.wait_until("there", lambda: status(owner, image) == "active", timeout_s=120)
            uploaded = time.monotonic()
            succeeded(command)
        assert tokens_asked_for(keystone) > before
    assert captured - began > expiration_s
    assert uploaded - captured > expiration_s
    assert machine.at_home()
    assert storage.names() == []


# In this time a token is used and revoked. Clients replace one that lives for less than two minutes
# before each request: so the revoked one is refused where one that expires would be, by Keystone.
REVOKED_BEFORE_S = 110


def test_a_token_that_cannot_be_renewed_leaves_the_image_for_another_one(
    machine: Machine, storage: Storage, keystone: Keystone, owner: Account, glance: Glance,
    small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    image = image_of(owner)
    with keystone.short_tokens(REVOKED_BEFORE_S):
        token = keystone.token_of(owner)
        command = snapshot(machine, storage, token, "--image", image)
        machine.node.wait_for("service wait")
        keystone.revoke(token)
        began = time.monotonic()
        outcome = finish(command)
    assert time.monotonic() - began < 60  # an outage would be waited for, for ten minutes
    assert outcome.code == 1
    assert "IronicUnavailable: " in outcome.err
    assert "application credential" in outcome.err
    [name] = re.findall(r"--resume (\S+)", outcome.err)
    # Nobody has told the machine.
    with machine.ramdisk():
        machine.node.wait_for("active")
    assert machine.at_home()
    kept = "%s/%s" % (machine.node.uuid, name)
    assert storage.names() == [machine.node.uuid, kept, kept + ".json"]
    assert status(owner, image) == "queued"

    succeeded(snapshot(machine, storage, owner, "--image", image, "--resume", name))
    assert status(owner, image) == "active"
    assert same_files(small_disk, glance.images / image, tmp_path)
    assert storage.names() == []


def test_the_conductor_needs_no_token_of_whom_has_asked(
    enrol: Enrol, storage: Storage, keystone: Keystone, owner: Account, glance: Glance,
    small_disk: disks.Disk, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    machine, image = enrol(vendor_interface="snapshot"), image_of(owner)
    with keystone.short_tokens(REVOKED_BEFORE_S):
        token = keystone.token_of(owner)
        succeeded(snapshot(machine, storage, token, "--image", image))
        machine.node.wait_for("service wait")
        keystone.revoke(token)
    with machine.ramdisk():
        machine.node.wait_for("active", timeout_s=120)
    found = glance.connection().image.get_image(image)
    assert (found.status, found.owner) == ("active", keystone.project_id(OWNER))
    assert same_files(small_disk, glance.images / image, tmp_path)
    assert machine.at_home()
    assert storage.names_of(machine.node.uuid) == []


@pytest.fixture
def runbook(ironic: Ironic, keystone: Keystone, machine: Machine) -> str:
    """A public runbook with the step, which fits the machine; its name."""
    name = "CUSTOM_SNAPSHOT"
    steps = json.dumps([{"interface": "deploy", "step": "snapshot", "args": {}, "order": 1}])
    for command in (
        ("runbook", "create", "--name", name, "--public", "true", "--steps", steps),
        ("runbook", "trait", "add", name, name),
        ("node", "add", "trait", machine.node.uuid, name),
    ):
        succeeded(start(ironic, keystone.admin, *command))
    return name


def test_a_member_of_the_lessee_may_use_a_runbook_once_the_policy_says_so(
    machine: Machine, storage: Storage, ironic: Ironic, lessee: Account, runbook: str,
    policy: pathlib.Path,
) -> None:  # fmt: skip
    service = ("node", "service", machine.node.uuid, "--runbook", runbook)
    refused = finish(start(ironic, lessee, *service))
    assert refused.code == 1
    assert "HTTP 403" in refused.err
    [rules] = re.findall(
        r'^   ("baremetal:runbook:use": .*)\n   ("baremetal:node:set_provision_state": .*)\n',
        POLICY.read_text(encoding="utf-8"), re.MULTILINE,
    )  # fmt: skip
    policy.write_text("%s\n%s\n" % rules)
    try:
        succeeded(start(ironic, lessee, *service))
        with machine.ramdisk():
            machine.node.wait_for("active")
        collection, name, manifest = storage.names()
        assert (collection, manifest) == (machine.node.uuid, name + ".json")

        # And still no other service.
        image = image_of(lessee)
        assert_refused(machine, storage, lessee, image)

        resumed = snapshot(
            machine, storage, lessee, "--image", image, "--resume", pathlib.Path(name).name
        )
        succeeded(resumed)
        assert status(lessee, image) == "active"
    finally:
        policy.write_text("{}\n")
    assert machine.at_home()
    assert machine.hardware() == [*THERE, *AND_BACK]
    assert storage.names() == []


def assert_refused(machine: Machine, storage: Storage, account: Account, image: str) -> str:
    """See that an account may not, and return what it is told."""
    outcome = finish(snapshot(machine, storage, account, "--image", image))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    return outcome.err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("project", "role", "told"),
    [
        (LESSEE, "member", "IronicUnavailable: Ironic does not let this account do that with"),
        (OWNER, "reader", "IronicUnavailable: Ironic does not let this account do that with"),
        (STRANGERS, "manager", "NodeNotReady: Ironic has no node"),
    ],
)
def test_who_may_not_is_told_so_and_nothing_is_touched(
    project: str, role: str, told: str, machine: Machine, storage: Storage, keystone: Keystone,
    owner: Account,
) -> None:  # fmt: skip
    image = image_of(owner)
    account = keystone.account("%s-%s-2" % (project, role), project, role)
    owner.connection().image.update_image(image, visibility="community")
    assert told in assert_refused(machine, storage, account, image)
    assert (machine.changes(), machine.powers(), machine.hardware()) == ([], [], [])
    assert machine.node.wait_for("active").power_state == "power on"
    assert storage.names() == []
    assert status(owner, image) == "queued"


def test_who_is_not_known_is_told_so(machine: Machine, storage: Storage, owner: Account) -> None:
    wrong = Account(owner.auth_type, {**owner.auth, "password": "wrong"})
    told = assert_refused(machine, storage, wrong, "file:///nowhere")
    assert "HTTP 401" in told
    assert (machine.changes(), machine.powers(), machine.hardware()) == ([], [], [])
