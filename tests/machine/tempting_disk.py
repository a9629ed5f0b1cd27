# SPDX-License-Identifier: Apache-2.0
"""A disk with all that a booting system likes to touch: LVM, RAID, swap, and dirty journals.

Made without the kernel's device-mapper and md, which a test's host need not have.
"""

import hashlib
import pathlib
import random
import struct
import tempfile
import uuid
from dataclasses import dataclass

from tests.lab import disks
from tests.lab.disk_maker import GIB, MIB

SERIAL = "TEMPTING-1"
# The smallest that the agent takes for a root device.
_SIZE = 4 * GIB
_ROOT = disks.Partition("root", "ext4", MIB, 400 * MIB)
_LVM = disks.Partition("lvm", "xfs", _ROOT.offset + _ROOT.size, 400 * MIB)
_RAID = tuple(
    disks.Partition("raid%d" % number, "", _LVM.offset + _LVM.size + number * 32 * MIB, 32 * MIB)
    for number in range(2)
)
_SWAP = disks.Partition("swap", "swap", _RAID[1].offset + _RAID[1].size, 64 * MIB)
_PARTITIONS = (_ROOT, _LVM, *_RAID, _SWAP)
# What a snapshot does not understand.
COPIED_WHOLE = _RAID
# systemd takes 8304 for the root and 8200 for swap of a machine on which it finds itself.
_GPT_TYPES = {"root": "8304", "lvm": "8e00", "raid0": "fd00", "raid1": "fd00", "swap": "8200"}
LVM_CONFIG = """\
devices { use_devicesfile=0 filter=["a|^%s$|", "r|.*|"] hints="none"
  obtain_device_list_from_udev=0 external_device_info_source="none" }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
backup { backup=0 archive=0 }
global { locking_dir="%s" use_lvmpolld=0 activation=0 }
"""


@dataclass(frozen=True)
class TemptingDisk:
    """The disk, and the file systems on it that hold files."""

    path: pathlib.Path
    size: int
    file_systems: tuple[disks.Partition, ...]


def make(path: pathlib.Path) -> TemptingDisk:
    """Make the disk as a sparse raw image."""
    with path.open("wb") as image:
        image.truncate(_SIZE)
    command = ["sgdisk", "--set-alignment", "1"]
    for number, part in enumerate(_PARTITIONS, start=1):
        last = (part.offset + part.size) // 512 - 1
        command += ["--new", f"{number}:{part.offset // 512}:{last}"]
        command += ["--typecode", f"{number}:{_GPT_TYPES[part.name]}"]
    disks.run(*command, path)
    numbers = random.Random(7)
    _make_file_system(path, _ROOT, numbers)
    volume = _make_volume(path)
    _make_file_system(path, volume, numbers)
    _make_mirror(path, numbers)
    _make_hibernated_swap(path, numbers)
    return TemptingDisk(path, _SIZE, (_ROOT, volume))


def wake(path: pathlib.Path) -> None:
    """Make plain swap of the hibernated system: beside that, no file system is mapped."""
    with path.open("r+b") as image:
        image.seek(_SWAP.offset + 4096 - 10)
        image.write(b"SWAPSPACE2")


def digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of the whole disk."""
    with path.open("rb") as image:
        return hashlib.file_digest(image, "sha256").hexdigest()


def _make_file_system(path: pathlib.Path, part: disks.Partition, numbers: random.Random) -> None:
    """Make one with files, and with a journal that the next mount replays."""
    force = {"ext4": "-F", "xfs": "-f"}[part.fs]
    with disks.LoopDevice(path, part.offset, part.size) as loop:
        disks.run("mkfs." + part.fs, "-q", force, loop.path)
        with disks.mounted(loop.path, part.fs) as top:
            for index in range(20):
                where = top / f"d{index % 3}"
                where.mkdir(exist_ok=True)
                (where / str(index)).write_bytes(numbers.randbytes(200_000 + index))
            disks.run("sync", "-f", top)
            (top / "late").write_bytes(numbers.randbytes(100_000))
            disks.run("xfs_io", "-c", "fsync", top / "late")
            # a power cut; ext4 knows it too
            disks.run("xfs_io", "-x", "-c", "shutdown -f", top)


def _make_volume(path: pathlib.Path) -> disks.Partition:
    with (
        disks.LoopDevice(path, _LVM.offset, _LVM.size) as loop,
        tempfile.TemporaryDirectory(prefix="lab-lvm-") as locks,
    ):
        config = ("--config", LVM_CONFIG % (loop.path, locks))
        disks.run("pvcreate", "-q", *config, "--dataalignment", "1m", loop.path)
        disks.run("vgcreate", "-q", *config, "vg", loop.path)
        disks.run(
            "lvcreate", "-q", *config, "--yes", "--activate", "n", "--zero", "n",
            "--wipesignatures", "n", "--size", "320m", "--name", "data", "vg",
        )  # fmt: skip
    return disks.Partition("volume", "xfs", _LVM.offset + MIB, 320 * MIB)


def _make_mirror(path: pathlib.Path, numbers: random.Random) -> None:
    """Write two members of a RAID 1 that must be synchronised: they differ, and say so."""
    identity = uuid.UUID(int=numbers.getrandbits(128))
    with path.open("r+b") as image:
        for role, part in enumerate(_RAID):
            image.seek(part.offset + 4096)
            image.write(_superblock(identity, role, part, numbers))
            image.seek(part.offset + MIB)
            image.write(numbers.randbytes(MIB))
    for part in _RAID:
        with disks.LoopDevice(path, part.offset, part.size) as loop:
            assert "State : active" in disks.run("mdadm", "--examine", loop.path)


def _superblock(
    identity: uuid.UUID, role: int, part: disks.Partition, numbers: random.Random
) -> bytes:
    """Return what lies 4096 bytes into a member: ``struct mdp_superblock_1``, version 1.2."""
    data_start, data_sectors = MIB // 512, (part.size - MIB) // 512
    block = bytearray(260)
    # magic, version, features; the array: identity, name, time, level, layout, size, chunk, disks
    struct.pack_into("<4I", block, 0, 0xA92B4EFC, 1, 0, 0)
    struct.pack_into(
        "<16s32sQIIQII", block, 16, identity.bytes, b"lab:0", 0, 1, 0, data_sectors, 0, 2
    )
    # this member: where its data and this block lie, its number and identity
    struct.pack_into("<QQQQI", block, 128, data_start, data_sectors, 8, 0, role)
    struct.pack_into("<16s", block, 168, numbers.randbytes(16))
    # events; how far it is synchronised: not at all; (checksum); and two roles
    struct.pack_into("<QQIIxxxx", block, 200, 1, 0, 0, 2)
    struct.pack_into("<2H", block, 256, 0, 1)
    total = sum(struct.unpack("<65I", block))
    struct.pack_into("<I", block, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return bytes(block)


def _make_hibernated_swap(path: pathlib.Path, numbers: random.Random) -> None:
    with disks.LoopDevice(path, _SWAP.offset, _SWAP.size) as loop:
        disks.run("mkswap", loop.path)
    with path.open("r+b") as image:
        image.seek(_SWAP.offset + 4096 - 10)
        image.write(b"S1SUSPEND\0")
        image.write(numbers.randbytes(MIB))
