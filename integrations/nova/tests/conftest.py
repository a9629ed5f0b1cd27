# SPDX-License-Identifier: Apache-2.0
"""The parts around Nova: a real Ironic, Glance, storage and agent, of the project's laboratory."""

import dataclasses
import filecmp
import importlib.util
import os
import pathlib
from collections.abc import Iterator

import pytest
from nova import monkey_patch

# nova-compute 34 runs in native threads by default, while Nova's tests by default do not. First of
# all, since others would import eventlet.
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"
monkey_patch.patch()

# isort: off
from tests.functional.conftest import nothing_left, small_disk  # noqa: E402,F401 enters namespaces
from tests.lab import agent, conductors, ironic  # noqa: E402
from tests.lab.machines import RECORDED, recording  # noqa: E402
# isort: on

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[2]

# The laboratory looks for the agent beside the program that runs the tests: here Nova is beside it.
agent.RELEASES = dataclasses.replace(agent.RELEASES, agent_venv=REPOSITORY / ".venv")

_IRONIC = """\
[DEFAULT]
# Machines are deployed by nothing, and serviced by the agent.
enabled_deploy_interfaces = direct,fake
"""
_VERB = """\
enabled_snapshot_interfaces = agent,no-snapshot
default_snapshot_interface = agent
"""


def pytest_sessionstart() -> None:
    """See that what is installed among Nova's files, from where Nova takes it, is what is here."""
    found = importlib.util.find_spec("nova.virt.ironic_snapshot")
    if found is None or found.origin is None:
        pytest.exit("the driver is not installed: run tools/setup.sh nova", returncode=4)
    source = HERE.parent / "nova/virt/ironic_snapshot"
    names = [path.name for path in source.glob("*.py")]
    installed = pathlib.Path(found.origin).parent
    if filecmp.cmpfiles(source, installed, names, shallow=False)[0] != names:
        pytest.exit("another driver is installed: run tools/setup.sh nova", returncode=4)


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[conductors.Backends]:
    """A storage, and a Glance behind a gate that can hold uploads back."""
    with conductors.backends(tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="session")
def bare_metal(
    backends: conductors.Backends, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ironic.Ironic]:
    """An Ironic whose conductor has the plug-in, for the nodes that want it."""
    config = backends.config() + RECORDED + _IRONIC
    where = tmp_path_factory.mktemp("ironic")
    with recording(), ironic.Ironic(where, backends.gate.url, extra_config=config) as server:
        yield server


@pytest.fixture(scope="session")
def bare_metal_with_verb(
    backends: conductors.Backends, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ironic.Ironic]:
    """An Ironic that has the specification's own verb."""
    config = backends.config() + RECORDED + _IRONIC + _VERB
    where = tmp_path_factory.mktemp("ironic-with-verb")
    with (
        recording(),
        ironic.Ironic(
            where, backends.gate.url, extra_config=config, venv=ironic.SNAPSHOT_VENV
        ) as server,
    ):
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what these tests do not show."""
    terminalreporter.section("not run here, and why")
    for line in (
        "Keystone: Nova's own fixture stands for its middleware, and Glance believes a token that "
        "names user, project and roles",
        "Neutron: Nova's own fake; the networks of machines: Ironic's fakes, which are recorded",
        "the deployment of machines: Ironic's fake deploy interface made them active",
        "a service token beside an expired token of the user: it needs a Keystone",
    ):
        terminalreporter.write_line("- " + line)
