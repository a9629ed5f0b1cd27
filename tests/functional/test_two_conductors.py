# SPDX-License-Identifier: Apache-2.0
"""Two conductors share the nodes: one works on a snapshot, and the other when that one is gone."""

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from tests.functional.conftest import same_files
from tests.lab import cluster, conductors, disks
from tests.lab.cluster import Cluster
from tests.lab.conductors import Backends
from tests.lab.machines import wait_until
from tests.lab.nodes import Node


@pytest.fixture(scope="module")
def module_backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with conductors.backends(tmp_path_factory.mktemp("backends")) as running:
        yield running


@pytest.fixture(scope="module")
def module_cluster(
    tmp_path_factory: pytest.TempPathFactory, module_backends: Backends
) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with cluster.cluster(directory, module_backends, max_concurrent_snapshots=1) as running:
        yield running


@pytest.fixture
def backends(module_backends: Backends) -> Iterator[Backends]:
    """A storage and a Glance, whose gate is open and has counted nothing."""
    module_backends.gate.forget()
    yield module_backends
    module_backends.gate.open()


@pytest.fixture
def pair(module_cluster: Cluster) -> Cluster:
    """Two conductors that are alive and know of each other."""
    module_cluster.one.start_again_if_killed()
    module_cluster.wait_for_both()
    return module_cluster


def is_done(backends: Backends, node: Node, image: str) -> None:
    """See that the node is back, and wait until the snapshot has left nothing but the image."""
    node.wait_for("active", timeout_s=120)
    assert backends.status(image) == "active"
    conductors.wait_until_forgotten(node)
    assert backends.names(node) == []


def test_captures_that_go_on_or_wait_outlive_the_death_of_their_conductor(
    pair: Cluster, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    nodes = {backends.new_image(): pair.enrol(pair.one) for _ in range(2)}
    for image, node in nodes.items():
        conductors.request(node, "snapshot", image)
    looks = conductors.Looks(pair.other)
    with contextlib.ExitStack() as ramdisks:
        with conductors.slowed_network():
            for node in nodes.values():
                ramdisks.enter_context(conductors.ramdisk(node, small_disk))
            looks.go_on_until("capturing", "requested")
            # A step is remembered a moment before its node waits. Ironic 39 leaves a node whose
            # conductor dies in `servicing` so, until that conductor is back.
            for node in nodes.values():
                node.wait_for("service wait")
            pair.one.kill()
        for image, node in nodes.items():
            is_done(backends, node, image)
            assert node.record().conductor == pair.other.host
            assert same_files(small_disk, backends.glance.images / image, tmp_path)


def test_an_upload_outlives_the_death_of_its_conductor(
    pair: Cluster, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    node, image, gate = pair.enrol(pair.one), backends.new_image(), backends.gate
    gate.holding = True
    conductors.request(node, "snapshot", image)
    with conductors.ramdisk(node, small_disk):
        wait_until("an upload under way", lambda: gate.uploads)
        pair.one.kill()
        # Glance takes what had been sent, and hears no more.
        gate.open()
        is_done(backends, node, image)
    assert node.record().conductor == pair.other.host
    assert [upload.image for upload in gate.uploads] == [image, image]
    assert same_files(small_disk, backends.glance.images / image, tmp_path)


def test_only_the_conductor_that_has_the_node_works_on_its_snapshot(
    pair: Cluster, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    node, image, gate = pair.enrol(pair.one), backends.new_image(), backends.gate
    gate.holding = True
    conductors.request(node, "snapshot", image)
    with conductors.ramdisk(node, small_disk) as agent:
        wait_until("an upload under way", lambda: gate.uploads)
    for conductor in (pair.one, pair.other):
        conductor.wait_for_rounds("clean_up_snapshots")
        conductor.wait_for_rounds("continue_snapshots")
    assert len(backends.names(node)) == 2
    gate.open()
    is_done(backends, node, image)
    assert [upload.image for upload in gate.uploads] == [image]
    assert pair.one.has_asked(agent.port)
    assert not pair.other.has_asked(agent.port)
    assert same_files(small_disk, backends.glance.images / image, tmp_path)


def test_a_conductor_that_only_slept_ends_its_upload_and_the_other_waits_for_it(
    pair: Cluster, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    node, image, gate = pair.enrol(pair.one), backends.new_image(), backends.gate
    gate.holding = True
    conductors.request(node, "snapshot", image)
    with conductors.ramdisk(node, small_disk):
        wait_until("an upload under way", lambda: gate.uploads)
    with pair.one.asleep():
        gate.open()
        wait_until("on its way", lambda: backends.status(image) == "saving")
        node.wait_until("with the other", lambda record: record.conductor == pair.other.host)
        conductors.wait_for_looks(node)
        assert backends.status(image) == "saving"
    is_done(backends, node, image)
    assert [upload.image for upload in gate.uploads] == [image]
    assert same_files(small_disk, backends.glance.images / image, tmp_path)


def test_as_many_machines_as_configured_are_captured_by_all_conductors_together(
    pair: Cluster, backends: Backends, small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    nodes = {backends.new_image(): pair.enrol(one) for one in (pair.one, pair.other)}
    for image, node in nodes.items():
        conductors.request(node, "snapshot", image)
    looks = conductors.Looks(pair.other)
    with contextlib.ExitStack() as ramdisks:
        with conductors.slowed_network():
            for node in nodes.values():
                ramdisks.enter_context(conductors.ramdisk(node, small_disk))
            looks.go_on_until("capturing", "requested")
        looks.go_on_until()
    for image, node in nodes.items():
        is_done(backends, node, image)
        assert same_files(small_disk, backends.glance.images / image, tmp_path)
    assert looks.most_captures == 1
