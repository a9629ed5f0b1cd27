# SPDX-License-Identifier: Apache-2.0
"""The laboratory's Ironic and its agents do what the tests of service steps build upon."""

import pathlib
import subprocess
from collections.abc import Iterator

import pytest
import requests

from tests.functional.marks import needs_restricted_lookup, needs_timeout
from tests.lab import ironic as lab_ironic
from tests.lab import processes
from tests.lab.agent import Agent
from tests.lab.glance import Glance
from tests.lab.ironic import Ironic
from tests.lab.machines import changes
from tests.lab.nodes import Node, enrol
from tests.lab.releases import RELEASES

# What a node goes through in a service with a step of the agent's.
WHOLE_SERVICE = [
    ("active", "servicing"),
    ("servicing", "service wait"),
    ("service wait", "servicing"),
    ("servicing", "service wait"),
    ("service wait", "servicing"),
    ("servicing", "active"),
]


NEVER = "/nonexistent"


def step(**arguments: str) -> dict[str, object]:
    return {"interface": "deploy", "step": "lab_noop", "args": arguments}


@pytest.fixture
def end(tmp_path: pathlib.Path) -> pathlib.Path:
    """The file that steps wait for."""
    return tmp_path / "end"


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironic]:
    with Ironic(tmp_path_factory.mktemp("ironic")) as server:
        yield server


@pytest.fixture
def node(ironic: Ironic, request: pytest.FixtureRequest) -> Node:
    # names are host names to Ironic
    return enrol(ironic, request.node.name.replace("_", "-")[:60])


def wait_for_ramdisk(node: Node, *steps: dict[str, object]) -> None:
    node.start_service(*steps)
    node.wait_for("service wait")


def test_ironic_and_the_agent_are_of_the_releases_that_were_selected(
    ironic: Ironic, node: Node, end: pathlib.Path
) -> None:
    wait_for_ramdisk(node, step(until=str(end)))
    with Agent([], lookup=node.lookup) as agent:
        during = node.wait_for_step("lab_noop")
        status = requests.get(agent.url + "/v1/status", verify=False, timeout=60).json()
        end.touch()
        node.wait_for("active")
    answer = requests.get(ironic.url + "/v1", timeout=60)
    assert answer.headers["X-OpenStack-Ironic-API-Maximum-Version"] == RELEASES.api
    assert ironic.version() == RELEASES.ironic
    assert status["version"] == RELEASES.agent
    assert during.driver_internal_info["agent_version"] == RELEASES.agent


def test_a_service_step_runs_in_the_agent_and_the_node_is_active_again(
    ironic: Ironic, node: Node, end: pathlib.Path
) -> None:
    wait_for_ramdisk(node, step(until=str(end)))
    with Agent([], lookup=node.lookup) as agent:
        during = node.wait_for_step("lab_noop")
        end.touch()
        after = node.wait_for("active")
        log = agent.log.read_text(errors="replace")

    # over TLS, with the certificate that the agent made itself and Ironic keeps
    assert during.driver_internal_info["agent_url"] == agent.url
    assert agent.url.startswith("https:")
    certificate = pathlib.Path(during.driver_internal_info["agent_verify_ca"])
    assert certificate.is_relative_to(ironic.state)
    assert "'waited_for': '%s'" % end in log
    assert changes(ironic, node.uuid) == WHOLE_SERVICE
    assert (after.power_state, after.last_error, after.is_maintenance) == ("power on", None, False)


def test_a_step_that_fails_is_told_with_its_reason(ironic: Ironic, node: Node) -> None:
    wait_for_ramdisk(node, step(fail="as the test wanted"))
    with Agent([], lookup=node.lookup):
        failed = node.wait_for("service failed")
    assert "as the test wanted" in failed.last_error
    assert any("as the test wanted" in event for event in node.history())


def test_a_step_that_runs_can_be_aborted(ironic: Ironic, node: Node) -> None:
    wait_for_ramdisk(node, step(until=NEVER))
    with Agent([], lookup=node.lookup):
        node.wait_for_step("lab_noop")
        node.abort()
    assert ("service wait", "service failed") in changes(ironic, node.uuid)


def test_two_nodes_are_serviced_at_once_each_by_its_own_agent(
    ironic: Ironic, node: Node, end: pathlib.Path
) -> None:
    other = enrol(ironic, "the-other-node")
    wait_for_ramdisk(node, step(until=str(end)))
    wait_for_ramdisk(other, step(until=str(end)))
    with Agent([], lookup=node.lookup) as first, Agent([], lookup=other.lookup) as second:
        records = [each.wait_for_step("lab_noop") for each in (node, other)]
        end.touch()
        node.wait_for("active")
        other.wait_for("active")
    urls = [record.driver_internal_info["agent_url"] for record in records]
    assert urls == [first.url, second.url]


@needs_restricted_lookup
def test_an_agent_that_comes_too_early_finds_no_node(ironic: Ironic, node: Node) -> None:
    early = Agent([], lookup=node.lookup, extra_config="lookup_timeout = 3")
    with pytest.raises(RuntimeError, match="Could not look up node"), early:
        pass


def test_a_service_outlives_the_death_of_the_conductor(
    tmp_path: pathlib.Path, end: pathlib.Path
) -> None:
    with Ironic(tmp_path / "ironic") as ironic:
        node = enrol(ironic, "survivor")
        wait_for_ramdisk(node, step(until=str(end)))
        with Agent([], lookup=node.lookup):
            node.wait_for_step("lab_noop")
            ironic.kill()
            assert not processes.answers(ironic.url)
            ironic.start_again()
            end.touch()
            node.wait_for("active")
        assert changes(ironic, node.uuid) == WHOLE_SERVICE


@needs_timeout
def test_an_agent_that_dies_is_noticed_after_the_time_that_is_configured(
    tmp_path: pathlib.Path,
) -> None:
    patience = "[conductor]\nservice_callback_timeout = 20\n"
    with Ironic(tmp_path / "ironic", extra_config=patience) as ironic:
        node = enrol(ironic, "forsaken")
        wait_for_ramdisk(node, step(until=NEVER))
        with Agent([], lookup=node.lookup) as agent:
            node.wait_for_step("lab_noop")
            agent.kill()
            failed = node.wait_for("service failed", timeout_s=90)
        assert "Timeout reached" in failed.last_error
        assert (failed.is_maintenance, failed.fault) == (True, "service failure")


def test_ironic_with_passwords_serves_who_knows_one_and_the_agents(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ironic(tmp_path / "ironic", auth="http_basic") as ironic:
        node = enrol(ironic, "guarded")
        wait_for_ramdisk(node, step())
        with Agent([], lookup=node.lookup):
            node.wait_for("active")
        # As values: older clients call the columns of their JSON by other names.
        listed = ironic.openstack("baremetal", "node", "list", "-f", "value", "-c", "Name")
        assert (listed.returncode, listed.stdout) == (0, "guarded\n"), listed.stderr
        monkeypatch.setattr(ironic, "password", "a wrong one")
        refused = ironic.openstack("baremetal", "node", "list")
        assert refused.returncode != 0
        assert "401" in refused.stderr


# Not by GlanceImageService.show(): Ironic 39 denies an image that another project owns to a context
# without a project, and that is all there is without Keystone.
SHOW_IMAGE = """\
import sys
from ironic.common import keystone, service
from openstack.connection import Connection
service.prepare_command(sys.argv[:1] + sys.argv[2:])
auth = keystone.get_auth("glance")
session = keystone.get_session("glance", auth=auth)
endpoint = keystone.get_endpoint("glance", session=session, auth=auth)
image = Connection(session=session, image_endpoint_override=endpoint).image.get_image(sys.argv[1])
print("the name is", image.name)
"""


def test_clients_and_the_conductor_reach_glance(glance: Glance, tmp_path: pathlib.Path) -> None:
    with Ironic(tmp_path / "ironic", glance.url) as ironic:
        cloud = ironic.connection()
        image = cloud.image.create_image(
            name="seen by Ironic", data=b"x" * 512, disk_format="raw", container_format="bare"
        )
        assert list(cloud.baremetal.nodes()) == []
        listed = ironic.openstack("image", "show", image.id, "-f", "value", "-c", "name")
        assert listed.stdout.strip() == "seen by Ironic", listed.stderr
        nodes = ironic.openstack("baremetal", "node", "list")
        assert nodes.returncode == 0, nodes.stderr
        # as a conductor asks, with what it is configured with; its log to stderr
        python = lab_ironic.DEFAULT_VENV / "bin/python"
        config = ["--config-file", ironic.state / "ironic.conf", "--log-file", ""]
        shown = subprocess.run(
            [python, "-c", SHOW_IMAGE, image.id, *config],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "the name is seen by Ironic" in shown.stdout, shown.stdout + shown.stderr


def test_ironic_that_does_not_start_says_why(tmp_path: pathlib.Path) -> None:
    wrong = "[DEFAULT]\nenabled_hardware_types = no-such-type\n"
    ironic = Ironic(tmp_path / "ironic", extra_config=wrong)
    # Its parent process starts the conductor again and again, and never gives up itself.
    ironic.start_timeout_s = 15
    with pytest.raises(RuntimeError, match="no-such-type"), ironic:
        pass
