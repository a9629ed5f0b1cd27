# SPDX-License-Identifier: Apache-2.0
"""``openstack baremetal node snapshot`` where the conductor has the plug-in."""

import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.functional.commands import finish
from tests.functional.conftest import same_files
from tests.lab import conductors, disks
from tests.lab.conductors import Backends
from tests.lab.ironic import Ironic
from tests.lab.nodes import Node


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with conductors.backends(tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory, backends: Backends) -> Iterator[Ironic]:
    where = tmp_path_factory.mktemp("ironic")
    with Ironic(where, backends.gate.url, extra_config=backends.config()) as server:
        yield server


@pytest.fixture
def node(ironic: Ironic) -> Node:
    return conductors.enrol(ironic)


def snapshot(ironic: Ironic, node: Node, *arguments: object) -> "subprocess.Popen[str]":
    """Start the command with ``--wait`` and further arguments, and without any storage."""
    return subprocess.Popen(
        ironic.openstack_command(
            "baremetal", "node", "snapshot", node.uuid, "--wait", "-f", "json", *arguments
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **ironic.environment()},
    )  # fmt: skip


def test_what_the_conductor_kept_is_resumed_by_it_and_the_instance_goes_on(
    ironic: Ironic, node: Node, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    image = backends.new_image()
    backends.gate.refusing = True
    command = snapshot(ironic, node, "--image", image)
    with conductors.ramdisk(node, small_disk):
        outcome = finish(command)
    assert outcome.code == 1
    (name,) = re.findall("the captured image (\\S+) is kept", outcome.err)
    assert node.record().provision_state == "active"
    before = conductors.powers(ironic, node)
    # The shutdown, and to the ramdisk and back; the instance that boots keeps its power then.
    assert before[before.index("power off") :] == ["power off", "power on"] * 2

    again = ("--image", image, "--resume", name)
    outcome = finish(snapshot(ironic, node, *again))
    assert "UploadFailed" in outcome.err
    assert node.record().provision_state == "service failed"

    backends.gate.refusing, backends.gate.holding = False, True
    command = snapshot(ironic, node, *again)
    assert command.stderr is not None
    assert "uploading" in (line.strip() for line in command.stderr)
    backends.gate.open()
    outcome = finish(command)
    assert outcome.code == 0, outcome.err
    assert (outcome.json["image_ref"], outcome.json["state"]) == (image, "active")
    assert same_files(small_disk, backends.glance.images / image, tmp_path)
    assert node.record().provision_state == "active"
    assert conductors.powers(ironic, node) == before


def test_an_image_that_the_conductor_would_refuse_is_refused_before_the_shutdown(
    ironic: Ironic, node: Node, backends: Backends
) -> None:
    node.cloud.baremetal.update_node(node.uuid, owner="another-project")
    before = conductors.powers(ironic, node)
    outcome = finish(snapshot(ironic, node, "--image", backends.new_image()))
    assert outcome.code == 1
    assert "InvalidRequest: the image" in outcome.err
    assert "belongs to the project lab-project" in outcome.err
    assert node.record().provision_state == "active"
    assert conductors.powers(ironic, node) == before
