# SPDX-License-Identifier: Apache-2.0
"""Disks from which a machine boots Debian, which says on its console who it is and what it holds.

Made without partition devices, device-mapper and vfat, which a test's host need not have; so GRUB
is put where its own installer would put it.
"""

import os
import pathlib
import random
import struct
import tempfile
import uuid
from dataclasses import dataclass

from tests.lab import disks
from tests.lab.disk_maker import GIB, MIB
from tests.machine import boot_report, debian_root
from tests.machine.tempting_disk import LVM_CONFIG

SERIAL = "SOURCE-1"
# The smallest that the agent takes for a root device.
_SIZE = 4 * GIB
# The last MiB belongs to the backup of the partition table.
_END = _SIZE - MIB
_BIOS_BOOT = disks.Partition("bios-boot", "", MIB, MIB)
_BIOS_ROOT = disks.Partition("root", "ext4", 2 * MIB, _END - 2 * MIB)
_ESP = disks.Partition("esp", "vfat", MIB, 64 * MIB)
_LVM = disks.Partition("lvm", "LVM2_member", 65 * MIB, _END - 65 * MIB)
_LVM_ROOT = disks.Partition("root", "xfs", _LVM.offset + MIB, 2 * GIB)
_GPT_TYPES = {"bios-boot": "ef02", "root": "8304", "esp": "ef00", "lvm": "8e00"}
# Written, and deleted again.
JUNK = b"This was deleted, and must not be on another machine. "


@dataclass(frozen=True)
class BootableDisk:
    """A disk, and who boots from it.

    :param root: where its root file system lies; in LVM, where the volume does.
    :param identity: what the system says of itself when it boots.
    """

    path: pathlib.Path
    size: int
    partitions: tuple[disks.Partition, ...]
    root: disks.Partition
    identity: boot_report.Identity


def make_bios(path: pathlib.Path, archive: pathlib.Path) -> BootableDisk:
    """Make one for a BIOS: GRUB in a partition of its own, and an ext4 root.

    :param archive: of :func:`debian_root.build`.
    """
    parts = (_BIOS_BOOT, _BIOS_ROOT)
    _partition(path, parts)
    system = _System("captured-bios", str(uuid.uuid4()))
    with disks.LoopDevice(path, _BIOS_ROOT.offset, _BIOS_ROOT.size) as loop:
        disks.run("mkfs.ext4", "-q", "-F", "-U", system.root_uuid, loop.path)
        with disks.mounted(loop.path, "ext4") as top:
            system.install(top, archive, "UUID=" + system.root_uuid)
            (top / "etc/fstab").write_text(
                f"UUID={system.root_uuid} / ext4 errors=remount-ro 0 1\n"
            )
            core = system.make_grub(top, "i386-pc", "biosdisk", "ext2")
            boot = (top / "usr/lib/grub/i386-pc/boot.img").read_bytes()
            _leave_junk(top)
    _install_bios_grub(path, boot, core)
    return BootableDisk(path, _SIZE, parts, _BIOS_ROOT, system.identity(path, _BIOS_ROOT))


def make_uefi(path: pathlib.Path, archive: pathlib.Path) -> BootableDisk:
    """Make one for UEFI: GRUB in the EFI system partition, and an xfs root in LVM."""
    parts = (_ESP, _LVM)
    _partition(path, parts)
    system = _System("captured-uefi", str(uuid.uuid4()))
    _make_volume(path)
    with disks.LoopDevice(path, _LVM_ROOT.offset, _LVM_ROOT.size) as loop:
        disks.run("mkfs.xfs", "-q", "-m", "uuid=" + system.root_uuid, loop.path)
        with disks.mounted(loop.path, "xfs") as top:
            system.install(top, archive, "/dev/mapper/vg-root")
            (top / "boot/efi").mkdir()
            fstab = "/dev/mapper/vg-root / xfs defaults 0 0\n"
            # An emulated machine may take longer than the minute and a half that systemd waits.
            patience = "x-systemd.device-timeout=15min"
            fstab += f"UUID=C0DE-0001 /boot/efi vfat umask=0077,{patience} 0 0\n"
            (top / "etc/fstab").write_text(fstab)
            core = system.make_grub(top, "x86_64-efi", "lvm", "xfs")
            _leave_junk(top)
    _make_esp(path, core)
    return BootableDisk(path, _SIZE, parts, _LVM_ROOT, system.identity(path, _LVM_ROOT))


class _System:
    """One installation of Debian."""

    def __init__(self, hostname: str, root_uuid: str) -> None:
        self.hostname = hostname
        self.root_uuid = root_uuid
        self.machine_id = uuid.uuid4().hex

    def install(self, top: pathlib.Path, archive: pathlib.Path, root: str) -> None:
        """Unpack it into its root file system, which its kernel finds by ``root``."""
        debian_root.unpack(archive, top)
        (top / "etc/hostname").write_text(self.hostname + "\n")
        (top / "etc/machine-id").write_text(self.machine_id + "\n")
        (top / "boot/grub").mkdir(exist_ok=True)
        command_line = f"root={root} ro console=ttyS0 quiet"
        (top / "boot/grub/grub.cfg").write_text(
            f"linux /vmlinuz {command_line}\ninitrd /initrd.img\nboot\n"
        )
        boot_report.install(top)
        _write_oddities(top)

    def make_grub(self, top: pathlib.Path, target: str, *modules: str) -> bytes:
        """Return GRUB with all that it needs up to its configuration file."""
        load = f"search.fs_uuid {self.root_uuid} root\nset prefix=($root)/boot/grub\n"
        (top / "boot/grub/load.cfg").write_text(load)
        disks.run(
            "chroot", top, "grub-mkimage", "--format", target, "--output", "/boot/grub/core.img",
            "--config", "/boot/grub/load.cfg", "--prefix", "/boot/grub", "part_gpt",
            "search_fs_uuid", "normal", "linux", *modules,
        )  # fmt: skip
        return (top / "boot/grub/core.img").read_bytes()

    def identity(self, path: pathlib.Path, root: disks.Partition) -> boot_report.Identity:
        """Return what it will say of itself, once it is finished."""
        with (
            disks.LoopDevice(path, root.offset, root.size, read_only=True) as loop,
            disks.mounted(loop.path, root.fs, "ro") as top,
        ):
            files = boot_report.digest(top)
        return boot_report.Identity(self.machine_id, self.hostname, self.root_uuid, files)


def _partition(path: pathlib.Path, parts: tuple[disks.Partition, ...]) -> None:
    with path.open("wb") as image:
        image.truncate(_SIZE)
    command = ["sgdisk", "--set-alignment", "1"]
    for number, part in enumerate(parts, start=1):
        last = (part.offset + part.size) // 512 - 1
        command += ["--new", f"{number}:{part.offset // 512}:{last}"]
        command += ["--change-name", f"{number}:{part.name}"]
        command += ["--typecode", f"{number}:{_GPT_TYPES[part.name]}"]
    disks.run(*command, path)


def _install_bios_grub(path: pathlib.Path, boot: bytes, core: bytes) -> None:
    """Write GRUB as grub-bios-setup does; the fields are those of boot.S and diskboot.S."""
    first = _BIOS_BOOT.offset // 512
    assert len(core) <= _BIOS_BOOT.size
    sector, rest = bytearray(boot[:440]), bytearray(core)
    # where the first sector of the core lies, and where that finds the others
    struct.pack_into("<Q", sector, 0x5C, first)
    struct.pack_into("<Q", rest, 512 - 12, first + 1)
    with path.open("r+b") as image:
        image.write(sector)
        image.seek(_BIOS_BOOT.offset)
        image.write(rest)


def _make_esp(path: pathlib.Path, core: bytes) -> None:
    with (
        disks.LoopDevice(path, _ESP.offset, _ESP.size) as loop,
        tempfile.TemporaryDirectory(prefix="lab-esp-") as where,
    ):
        disks.run("mkfs.vfat", "-i", "C0DE0001", loop.path)
        boot = pathlib.Path(where, "EFI/BOOT")
        boot.mkdir(parents=True)
        (boot / "BOOTX64.EFI").write_bytes(core)
        disks.run("mcopy", "-s", "-i", loop.path, boot.parent, "::")


def _make_volume(path: pathlib.Path) -> None:
    with (
        disks.LoopDevice(path, _LVM.offset, _LVM.size) as loop,
        tempfile.TemporaryDirectory(prefix="lab-lvm-") as locks,
    ):
        config = ("--config", LVM_CONFIG % (loop.path, locks))
        disks.run("pvcreate", "-q", *config, "--dataalignment", "1m", loop.path)
        disks.run("vgcreate", "-q", *config, "vg", loop.path)
        disks.run(
            "lvcreate", "-q", *config, "--yes", "--activate", "n", "--zero", "n",
            "--wipesignatures", "n", "--size", f"{_LVM_ROOT.size}b", "--name", "root", "vg",
        )  # fmt: skip


def _write_oddities(top: pathlib.Path) -> None:
    """Write what a copy easily loses."""
    srv = top / "srv"
    numbers = random.Random(5)
    one = srv / "one"
    one.write_bytes(numbers.randbytes(MIB))
    os.chown(one, 1234, 4321)
    (srv / "another").hardlink_to(one)
    (srv / "link").symlink_to("one")
    os.setxattr(one, "user.colour", b"blue")
    os.setxattr(
        one, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    disks.run("setfacl", "--modify", "user:1000:r--", one)
    disks.run("setfacl", "--default", "--modify", "group:1000:rwx", srv)
    with (srv / "sparse").open("wb") as sparse:
        sparse.seek(200 * MIB)
        sparse.write(numbers.randbytes(MIB))
        sparse.truncate(300 * MIB)


def _leave_junk(top: pathlib.Path) -> None:
    """Write 40 MiB and delete them, after everything else was written."""
    disks.run("sync", "-f", top)
    junk = top / "junk"
    junk.write_bytes((JUNK * (40 * MIB // len(JUNK) + 1))[: 40 * MIB])
    disks.run("sync", "-f", top)
    junk.unlink()
