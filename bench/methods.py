# SPDX-License-Identifier: Apache-2.0
"""The ways to make an image of a disk that are measured against each other.

The others' are given their best options: large direct reads, zstd -1 on all cores.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import restore
from bench.machine_disk import MachineDisk
from bench.measure import Command, MethodFailed, Runner

_IPA_SNAPSHOT = Path(sys.executable).with_name("ipa-snapshot")
_ZSTD = ("zstd", "-1", "-T0", "--quiet", "--stdout")
# What Clonezilla calls a partition's tool by; swap has none, as it makes an empty one.
_PARTCLONE = {"ext4": "partclone.ext4", "vfat": "partclone.vfat", "xfs": "partclone.xfs"}


@dataclass(frozen=True)
class Bench:
    """What a method is given.

    :param url: where the server takes a PUT; what it gets lies in ``store``.
    :param local: a directory of a local disk.
    :param ram: a directory of a tmpfs, which is all that a ramdisk has: it counts as memory.
    """

    disk: MachineDisk
    url: str
    store: Path
    local: Path
    ram: Path


@dataclass(frozen=True)
class Method:
    """A way to make an image, and how to see that the disk is in it.

    :param local: nothing goes through the network.
    """

    name: str
    run: Callable[[Bench, Runner], None]
    check: Callable[[Bench, restore.Originals], None]
    local: bool = False


def stream_command(url: str, device: str, *options: str) -> Command:
    """Return the command line of ``ipa-snapshot stream``."""
    return [_IPA_SNAPSHOT, "stream", url, "image", "--device", device, "--json", *options]


def ours(name: str, *options: str, local: bool = False, whole: bool = False) -> Method:
    """``ipa-snapshot stream`` with the given options; ``whole``: free blocks are copied too."""

    def run(bench: Bench, runner: Runner) -> None:
        where = "file://%s" % bench.local if local else bench.url
        runner.pipe(stream_command(where, bench.disk.device, *options))

    return Method(name, run, _qcow2(local=local, whole=whole), local)


def qemu_img(name: str, *options: str) -> Method:
    """``qemu-img convert`` into a local file: no network, no digest, no confirmation."""

    def run(bench: Bench, runner: Runner) -> None:
        runner.pipe(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options,
                     bench.disk.device, bench.local / "image"])  # fmt: skip

    return Method(name, run, _qcow2(local=True, whole=True), local=True)


def dd(name: str, *filters: Command) -> Method:
    """``dd``, perhaps through a filter, into one PUT."""

    def run(bench: Bench, runner: Runner) -> None:
        read = ["dd", "if=%s" % bench.disk.device, "bs=4M", "iflag=direct", "status=none"]
        runner.pipe(read, *filters, _put(bench.url, "image"))

    def check(bench: Bench, originals: restore.Originals) -> None:
        restore.check_raw(bench.store / "image", originals, compressed=bool(filters))

    return Method(name, run, check)


def partclone(bench: Bench, runner: Runner) -> None:
    """Save what makes the disk bootable, the table, and each file system by its own tool."""
    disk = bench.disk
    runner.pipe(["dd", "if=%s" % disk.device, "bs=1M", "count=1", "status=none"],
                _put(bench.url, "first-mib"))  # fmt: skip
    runner.pipe(["sfdisk", "--dump", disk.device], _put(bench.url, "table"))
    for part in disk.disk.partitions:
        if tool := _PARTCLONE.get(part.fs):
            log = bench.local / "partclone.log"
            clone = [tool, "--clone", "--quiet", "--buffer_size", "10485760", "--logfile", log]
            clone += ["--source", disk.partition_devices[part.name], "--output", "-"]
            runner.pipe(clone, _ZSTD, _put(bench.url, part.name))
            log.unlink()


def nbdkit(bench: Bench, runner: Runner) -> None:
    """Serve the disk with our map; qemu-img makes a file of it in memory, and curl sends that."""
    listed, socket, image = (bench.ram / name for name in ("extents", "socket", "image"))
    runner.pipe([sys.executable, "-m", "bench.extent_list", bench.disk.device, listed])
    serve = ["nbdkit", "--foreground", "--readonly", "--unix", socket, "--filter=extentlist"]
    with runner.background(*serve, "file", bench.disk.device, "extentlist=%s" % listed) as server:
        while not socket.exists():
            if server.poll() is not None:
                raise MethodFailed("nbdkit ended with %d" % server.returncode)
            time.sleep(0.01)
        options = ["-c", "-W", "-m", "16", "-o", "compression_type=zstd"]
        runner.pipe(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options,
                     "nbd+unix:///?socket=%s" % socket, image])  # fmt: skip
    runner.pipe(["curl", "-sSf", "--upload-file", image, bench.url + "/image"])
    for path in (listed, socket, image):
        path.unlink(missing_ok=True)


def _put(url: str, name: str) -> Command:
    return ["curl", "-sSf", "--upload-file", "-", "%s/%s" % (url, name)]


def _qcow2(*, local: bool, whole: bool) -> Callable[[Bench, restore.Originals], None]:
    def check(bench: Bench, originals: restore.Originals) -> None:
        image = (bench.local if local else bench.store) / "image"
        restore.check_qcow2(image, originals.disk if whole else originals.used)

    return check


def _used(bench: Bench, originals: restore.Originals) -> None:
    # qemu-img 7.2 compresses whole clusters, and with them what nbdkit has told it to be a hole.
    restore.check_used(bench.store / "image", originals)


def _partitions(bench: Bench, originals: restore.Originals) -> None:
    restore.check_partitions(bench.store, bench.disk.disk, originals, tuple(_PARTCLONE))


STREAM = "stream, zstd, PUT"
STREAM_PLAIN = "stream, uncompressed, PUT"
DAVFS = "qemu-img into davfs2, uncompressed"
PARTCLONE = "partclone, zstd, PUT"
NBDKIT = "nbdkit, qemu-img zstd, PUT"
_QEMU_ZSTD = ("-c", "-W", "-m", "16", "-o", "compression_type=zstd")

METHODS = (
    ours(STREAM, "--compression", "zstd"),
    ours("stream, zlib, PUT", "--compression", "zlib"),
    ours(STREAM_PLAIN, "--compression", "none"),
    ours("stream, zstd, file", "--compression", "zstd", local=True),
    Method(PARTCLONE, partclone, _partitions),
    Method(NBDKIT, nbdkit, _used),
    ours(DAVFS, "--writer", "davfs", "--compression", "none", whole=True),
    ours("qemu-img into davfs2, zstd", "--writer", "davfs", "--compression", "zstd", whole=True),
    qemu_img("qemu-img, uncompressed, file"),
    qemu_img("qemu-img, zstd, file", *_QEMU_ZSTD),
    dd("dd, zstd, PUT", _ZSTD),
    dd("dd, PUT"),
)
