# SPDX-License-Identifier: Apache-2.0
"""The stream writer against an independent tool, and at sizes where memory would show."""

import contextlib
import json
import pathlib
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.measure import link
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import map_disk
from tests.functional import commands
from tests.lab import disks
from tests.lab.apache import Apache

MIB = 1024 * 1024


def take(disk: object, target: pathlib.Path, *more: str) -> commands.Outcome:
    target.mkdir(exist_ok=True)
    outcome = commands.run(
        "ipa-snapshot", "stream", "file://%s" % target, "image", "--device", disk, "--json", *more
    )
    assert outcome.code == 0, outcome.err
    return outcome


def test_nbdkit_and_qemu_img_make_the_same_of_the_same_map(
    tmp_path: pathlib.Path, small_disk: disks.Disk
) -> None:
    take(small_disk.path, tmp_path / "images")
    with open_source(str(small_disk.path)) as source:
        extents = map_disk(source).extents
    listed = tmp_path / "extents"
    listed.write_text("".join("%d %d\n" % extent for extent in extents))
    socket, theirs = tmp_path / "nbd", tmp_path / "theirs.qcow2"
    nbdkit = subprocess.Popen(
        ["nbdkit", "--foreground", "--readonly", "--unix", socket, "--filter=extentlist", "file",
         small_disk.path, "extentlist=%s" % listed],
    )  # fmt: skip
    try:
        while not socket.exists():
            assert nbdkit.poll() is None
            time.sleep(0.05)
        url = "nbd+unix:///?socket=%s" % socket
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", url, theirs]
        subprocess.run(command, check=True)
    finally:
        nbdkit.terminate()
        nbdkit.wait()
    compare = [
        "qemu-img",
        "compare",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        tmp_path / "images/image",
        theirs,
    ]
    assert subprocess.run(compare, check=False).returncode == 0


# As on a machine with many cores, where more is compressed at once. The peak is that of the program
# itself: what wait4() tells has that of the process in it from which it was forked.
_MANY_CORES = """\
import os, pathlib, re, sys
from ipa_snapshot import cli
os.cpu_count = lambda: 64
code = cli.main()
status = pathlib.Path("/proc/self/status").read_text()
print(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1], file=sys.stderr)
sys.exit(code)
"""


def measure(disk: pathlib.Path, url: str) -> tuple[Any, int]:
    """Take a snapshot; return the result, and the most memory that it had, in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", _MANY_CORES, "stream", url, "image",
         "--device", disk, "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), int(done.stderr.split()[-1])


def say(what: str, found: Any, peak_kib: int) -> None:
    # pytest -s shows what the documentation quotes
    print(
        "%s, %d MiB in use: %.0f s, %d MiB"
        % (what, found["used"] // MIB, found["elapsed_s"], peak_kib // 1024)
    )


@contextlib.contextmanager
def storage(kind: str, images: pathlib.Path) -> Iterator[str]:
    """Yield the URL of a directory, or of Apache on a link on which everything has to wait."""
    if kind == "file":
        images.mkdir()
        yield "file://%s" % images
        return
    with Apache(images, None, tls=False) as apache, link(capped=True):
        yield apache.url


@pytest.mark.parametrize("kind", ["file", "http"])
@pytest.mark.parametrize(("size", "most_mib"), [(200 << 30, 256), (2 << 40, 384)])
def test_memory_is_bounded_whatever_the_disk(
    tmp_path: pathlib.Path, size: int, most_mib: int, kind: str
) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(16):
        (files / str(number)).write_bytes(random.Random(number).randbytes(20 * MIB))
    disks.run("mkfs.ext4", "-q", "-d", files, disk)
    with storage(kind, tmp_path / "images") as url:
        found, peak_kib = measure(disk, url)
    say("%d GiB to %s" % (size >> 30, kind), found, peak_kib)
    assert found["used"] < 2 << 30
    assert found["bytes_read"] <= 1.02 * found["used"]
    # 320 MiB do not compress; the inode tables and the journal do; 16 MiB of L2 tables
    assert found["size"] <= 1.01 * 320 * MIB + 32 * MIB
    assert peak_kib <= most_mib * 1024
    subprocess.run(
        ["qemu-img", "check", "-q", "-f", "qcow2", tmp_path / "images/image"], check=True
    )


@pytest.mark.parametrize("clusters", [1_000_000, 8_000_000])
def test_memory_is_bounded_in_however_many_pieces_it_is_used(
    tmp_path: pathlib.Path, clusters: int
) -> None:
    # a FAT32 that uses every second cluster of 512 bytes
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(clusters * (512 + 2 * 4) + 2 * MIB)
    disks.run("mkfs.vfat", "-F", "32", "-s", "1", disk)
    with disk.open("r+b") as file:
        boot = file.read(512)
        (reserved,), (size,) = (
            struct.unpack_from("<H", boot, 14),
            struct.unpack_from("<I", boot, 36),
        )
        table = struct.pack("<II", 0x0FFFFFF8, 0x0FFFFFFF)
        table += struct.pack("<II", 0x0FFFFFFF, 0) * (clusters // 2 - 1)
        for number in range(2):
            file.seek((reserved + number * size) * 512)
            file.write(table)
    with storage("file", tmp_path / "images") as url:
        found, peak_kib = measure(disk, url)
    say("%d pieces to a file" % (clusters // 2), found, peak_kib)
    assert found["warnings"] == []
    assert found["used"] >= clusters * 256
    assert peak_kib <= 256 * 1024


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_what_was_deleted_is_not_in_the_image(tmp_path: pathlib.Path, fs: str) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(512 * MIB)
    secret = b"this was deleted and is nobody's business"
    with disks.LoopDevice(disk) as loop:
        disks.run("mkfs.%s" % fs, "-q", loop.path)
        with disks.mounted(loop.path, fs) as top:
            (top / "kept").write_bytes(random.Random(1).randbytes(5 * MIB))
            (top / "deleted").write_bytes(secret * 100_000)
            disks.run("sync", "--file-system", top)
            (top / "deleted").unlink()
            disks.run("sync", "--file-system", top)
    assert secret in disk.read_bytes()
    take(disk, tmp_path / "images", "--format", "raw")
    image = tmp_path / "images/image"
    assert secret not in image.read_bytes()
    assert image.stat().st_size == 512 * MIB
    assert image.stat().st_blocks * 512 < 128 * MIB  # what is not used is a hole
