# SPDX-License-Identifier: Apache-2.0
"""A disk whose reads nbdkit answers, shown as a file by nbdfuse."""

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Iterator


@contextlib.contextmanager
def fuse_disk(directory: pathlib.Path, size: int, *nbdkit: object) -> Iterator[pathlib.Path]:
    """Show what an nbdkit with these arguments serves as a file of ``size`` bytes.

    The file vanishes if nbdfuse is killed.
    """
    disk = directory / "disk"
    disk.touch()
    fuse = subprocess.Popen(
        ["nbdfuse", "--readonly", disk, "--command", "nbdkit", "--single", "--exit-with-parent",
         *map(str, nbdkit)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while disk.stat().st_size != size:
            assert fuse.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield disk
    finally:
        subprocess.run(["fusermount3", "-uz", disk], check=True)
        fuse.kill()
        fuse.wait(20)
