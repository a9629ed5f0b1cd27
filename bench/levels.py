# SPDX-License-Identifier: Apache-2.0
"""A program: what levels of zstd, and sizes of clusters, make of two disks.

One is that of the series "capped", the other a small Debian's file system, which is built if the
cache has none. Each cluster is compressed alone, as in an image, where clusters that hold nothing
are not. What is not in use is zeros; journals are in use.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard

from bench import machine_disk
from bench.machine_disk import MIB
from bench.plans import plans
from bench.report import table
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import map_disk
from tests.lab import disks
from tests.machine import debian_root

_LEVELS = (1, 2, 3, 5)
_SIZES = (64 * 1024, 256 * 1024, MIB, 2 * MIB)
_DISK = 4096 * MIB


def main() -> None:
    """Make the disks, and print what is left of what is in use, with the CPU time of a GB."""
    argparse.ArgumentParser(prog="bench.levels", description=__doc__).parse_args()
    for title, make in (("The disk of the benchmark", _of_benchmark), ("Debian", _of_debian)):
        with tempfile.TemporaryDirectory(prefix="ipa-snapshot-bench-", dir="/var/tmp") as work:
            print("%s: %s" % (title, _compared(make(Path(work, "disk.raw")))), flush=True)


def _of_benchmark(path: Path) -> disks.Disk:
    plan, *_others = plans(20, quick=False)
    return machine_disk.make_disk(path, plan.disk_size, plan.fill, plan.amount)


def _of_debian(path: Path) -> disks.Disk:
    archive = debian_root.build()
    with path.open("wb") as file:
        file.truncate(_DISK)
    disks.run("mkfs.ext4", "-q", path)
    with disks.LoopDevice(path) as loop, disks.mounted(loop.path, "ext4") as top:
        debian_root.unpack(archive, top)
    return disks.Disk(path, _DISK, ())


def _compared(disk: disks.Disk) -> str:
    with open_source(str(disk.path)) as source:
        extents = map_disk(source).extents
    kept = disk.path.with_name("kept.raw")
    machine_disk.keep_used(disk, extents, kept)
    used = sum(length for _start, length in extents)
    rows = [
        ("%d KiB" % (size // 1024), *(_tried(kept, size, level, used) for level in _LEVELS))
        for size in _SIZES
    ]
    heads = ("Clusters", *("level %d" % level for level in _LEVELS))
    title = "%d MB in use; sent by used; CPU of zstd alone for a GB" % (used / 1e6)
    return "\n".join((title, *table(heads, rows)))


def _tried(disk: Path, size: int, level: int, used: int) -> str:
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=False)
    left, spent_s = 0, 0.0
    for cluster in _clusters(disk, size):
        began = time.thread_time()
        left += len(compressor.compress(cluster))
        spent_s += time.thread_time() - began
    return "%.3f; %.2f s" % (left / used, spent_s / used * 1e9)


def _clusters(disk: Path, size: int) -> Iterator[bytes]:
    zeros = bytes(size)
    with disk.open("rb") as file:
        end, at = disk.stat().st_size, 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // size * size
            except OSError:  # nothing follows
                return
            cluster = os.pread(file.fileno(), size, at)
            if cluster != zeros:
                yield cluster
            at += size


if __name__ == "__main__":
    main()
