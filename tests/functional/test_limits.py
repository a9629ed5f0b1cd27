# SPDX-License-Identifier: Apache-2.0
"""Eight machines at once, one storage, and one conductor that does not grow with them."""

import contextlib
import pathlib
import time

import psutil

from tests.lab import conductors, disks
from tests.lab.ironic import Ironic

MIB = 1024 * 1024
MACHINES = 8


def usage(process: psutil.Process) -> tuple[int, int]:
    """Return the memory of a process and its children, in bytes, and how many sockets they have."""
    memory = sockets = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            memory += one.memory_info().rss
            sockets += len(one.net_connections())
    return memory, sockets


def test_eight_snapshots_at_once_take_a_conductor_little_memory_and_few_sockets(
    small_disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with (
        conductors.backends(tmp_path) as backends,
        Ironic(tmp_path / "ironic", backends.gate.url, extra_config=backends.config()) as ironic,
        contextlib.ExitStack() as machines,
    ):
        nodes = [conductors.enrol(ironic) for _machine in range(MACHINES)]
        images = [backends.new_image() for _node in nodes]
        for node, image in zip(nodes, images, strict=True):
            conductors.request(node, "snapshot", image)
        conductor = psutil.Process(ironic.pid)
        before = most = usage(conductor)
        began = time.monotonic()
        for node in nodes:
            machines.enter_context(conductors.ramdisk(node, small_disk))
        while any(node.record().provision_state != "active" for node in nodes):
            now = usage(conductor)
            most = (max(most[0], now[0]), max(most[1], now[1]))
            assert time.monotonic() - began < 300
            time.sleep(0.2)
        sizes = [backends.glance.connection().image.get_image(image).size for image in images]
        elapsed_s = time.monotonic() - began
        assert {backends.status(image) for image in images} == {"active"}
    grown, sockets = (most[0] - before[0]) // MIB, most[1] - before[1]
    # pytest -s shows what the documentation quotes.
    print(
        "%d snapshots at once, %d MiB in all: %.0f s, the conductor had %d MiB more, and %d sockets"
        % (MACHINES, sum(sizes) // MIB, elapsed_s, grown, sockets)
    )
    assert grown < 128
    # One to the agent, one to the storage and one to Glance, and as many that are being closed.
    assert sockets <= 6 * MACHINES
