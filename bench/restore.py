# SPDX-License-Identifier: Apache-2.0
"""See that the disk can be restored from what a method stored: a fast loss is no result."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import machine_disk
from ipa_snapshot.devices.extents import Extents
from tests.lab import disks


class NotRestored(Exception):
    """What was stored does not hold the disk."""


@dataclass(frozen=True)
class Originals:
    """What to compare with: the whole ``disk``, and one with zeros where nothing is ``used``.

    :param extents: what is used.
    :param scratch: a directory for what is restored.
    """

    disk: Path
    used: Path
    extents: Extents
    scratch: Path


def check_qcow2(image: Path, original: Path) -> None:
    """Raise unless the image restores to the bytes of the original.

    :raises: NotRestored
    """
    _same(original, image, "qcow2")


def check_used(image: Path, originals: Originals) -> None:
    """Raise unless the image restores to the bytes that are used, whatever the others are.

    :raises: NotRestored
    """
    restored = originals.scratch / "restored.raw"
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
    try:
        subprocess.run([*convert, image, restored], check=True)
        with originals.disk.open("rb") as expected, restored.open("rb") as found:
            for start, length in machine_disk.pieces(originals.extents):
                wanted = os.pread(expected.fileno(), length, start)
                if os.pread(found.fileno(), length, start) != wanted:
                    raise NotRestored("%s differs from the disk in %d bytes at %d"
                                      % (image, length, start))  # fmt: skip
    finally:
        restored.unlink(missing_ok=True)


def check_raw(image: Path, originals: Originals, *, compressed: bool) -> None:
    """Raise unless a raw image, perhaps compressed by zstd, is the disk.

    :raises: NotRestored
    """
    if not compressed:
        return _same(originals.disk, image, "raw")
    restored = originals.scratch / "restored.raw"
    subprocess.run(["zstd", "-d", "-q", "-f", "--sparse", image, "-o", restored], check=True)
    try:
        _same(originals.disk, restored, "raw")
    finally:
        restored.unlink(missing_ok=True)


def check_partitions(
    store: Path, disk: disks.Disk, originals: Originals, file_systems: tuple[str, ...]
) -> None:
    """Raise unless partclone's images restore to the same files.

    By files, as partclone has its own idea of which other blocks matter.

    :raises: NotRestored
    """
    restored = originals.scratch / "restored.raw"
    try:
        with restored.open("wb") as file:
            file.truncate(disk.size)
        for part in disk.partitions:
            if part.fs not in file_systems:
                continue
            with disks.LoopDevice(restored, part.offset, part.size) as loop:
                _restore_partition(store / part.name, loop.path, originals.scratch)
            if disks.checksums(restored, part) != disks.checksums(disk.path, part):
                raise NotRestored("the files of %s are not those of the disk" % part.name)
    finally:
        restored.unlink(missing_ok=True)


def _restore_partition(image: Path, device: str, scratch: Path) -> None:
    log = scratch / "restore.log"
    command: list[str | Path]
    command = ["partclone.restore", "--quiet", "--logfile", log, "--source", "-", "-o", device]
    with subprocess.Popen(["zstd", "-d", "-q", "-c", image], stdout=subprocess.PIPE) as zstd:
        done = subprocess.run(command, stdin=zstd.stdout, capture_output=True, check=False)
    log.unlink(missing_ok=True)
    if done.returncode or zstd.returncode:
        raise NotRestored("%s: %s" % (image.name, done.stderr.decode(errors="replace")))


def _same(original: Path, image: Path, image_format: str) -> None:
    command: list[str | Path]
    command = ["qemu-img", "compare", "-f", "raw", "-F", image_format, original, image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotRestored("%s: %s" % (image, done.stdout or done.stderr))
