# SPDX-License-Identifier: Apache-2.0
"""Make a disk as a deployed machine has it: GPT, ESP, swap, xfs and a root with a past."""

import os
import pathlib
import random
import stat
import tempfile

from tests.lab import disks

MIB = 1024 * 1024
GIB = 1024 * MIB
_GPT_TYPES = {"vfat": "ef00", "swap": "8200", "xfs": "8300", "ext4": "8300", "btrfs": "8300"}
_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "vfat": ["mkfs.vfat"],
    "swap": ["mkswap"],
}


def make_disk(
    path: str | os.PathLike[str],
    size: int = 5 * GIB,
    *,
    root_fs: str = "ext4",
    data_mib: int = 100,
    junk_mib: int = 100,
    sector_size: int = 512,
    seed: int = 1,
) -> disks.Disk:
    """Make a sparse raw image with partitions esp, swap, data (xfs) and root.

    :param size: the whole disk; the root partition takes what the others leave.
    :param data_mib: what the root file system's files hold, half of it incompressible.
    :param junk_mib: what was written there and deleted again, and so lies in its free blocks.
    :param seed: the same seed makes the same files.
    """
    disk = disks.Disk(pathlib.Path(path), size, _layout(size, root_fs), sector_size)
    with disk.path.open("wb") as image:
        image.truncate(size)
    _write_gpt(disk)
    numbers = random.Random(seed)
    for part in disk.partitions:
        with disks.LoopDevice(path, part.offset, part.size, sector_size=sector_size) as loop:
            disks.run(*_MKFS[part.fs], loop.path)
            if part.name == "esp":
                _fill_esp(loop.path, numbers)
            elif part.name == "data":
                with disks.mounted(loop.path, part.fs) as top:
                    _write_files(top, numbers, 10)
            elif part.name == "root":
                with disks.mounted(loop.path, part.fs) as top:
                    _fill_root(top, numbers, data_mib, junk_mib)
    return disk


def _layout(size: int, root_fs: str) -> tuple[disks.Partition, ...]:
    # mkfs.xfs 6.1 refuses less than 300 MiB.
    wanted = [("esp", "vfat", 64), ("swap", "swap", 64), ("data", "xfs", 320)]
    parts, offset = [], MIB
    for name, fs, size_mib in wanted:
        parts.append(disks.Partition(name, fs, offset, size_mib * MIB))
        offset += size_mib * MIB
    # The last MiB belongs to the backup of the partition table.
    parts.append(disks.Partition("root", root_fs, offset, (size - offset) // MIB * MIB - MIB))
    return tuple(parts)


def _write_gpt(disk: disks.Disk) -> None:
    command = ["sgdisk", "--set-alignment", "1"]
    for number, part in enumerate(disk.partitions, start=1):
        first = part.offset // disk.sector_size
        last = (part.offset + part.size) // disk.sector_size - 1
        command += ["--new", f"{number}:{first}:{last}", "--change-name", f"{number}:{part.name}"]
        command += ["--typecode", f"{number}:{_GPT_TYPES[part.fs]}"]
    # On a loop device, as sgdisk takes the sector size from the device alone.
    with disks.LoopDevice(disk.path, sector_size=disk.sector_size) as loop:
        disks.run(*command, loop.path)


def _fill_esp(device: str, numbers: random.Random) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-esp-") as where:
        boot = pathlib.Path(where, "EFI/BOOT")
        boot.mkdir(parents=True)
        (boot / "BOOTX64.EFI").write_bytes(numbers.randbytes(2 * MIB))
        (boot / "grub.cfg").write_text(_text(numbers, 4096))
        disks.run("mcopy", "-s", "-i", device, boot.parent, "::")


def _fill_root(top: pathlib.Path, numbers: random.Random, data_mib: int, junk_mib: int) -> None:
    junk = top / "junk"
    junk.mkdir()
    _write_files(junk, numbers, junk_mib)
    disks.run("sync", "-f", top)
    _write_files(top, numbers, data_mib)
    _write_oddities(top, numbers)
    # Files get their blocks late: those of the junk must not be free before.
    disks.run("sync", "-f", top)
    for path in sorted(junk.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    junk.rmdir()


def _write_files(top: pathlib.Path, numbers: random.Random, total_mib: int) -> None:
    """Write half of it as text, half of it as noise, and some small files."""
    block = _text(numbers, MIB)
    for index in range(total_mib // 4):
        where = top / f"srv/{index % 4}/deep/er"
        where.mkdir(parents=True, exist_ok=True)
        (where / f"text-{index}").write_text(f"{index}\n{block}{block[::-1]}")
        (where / f"noise-{index}").write_bytes(numbers.randbytes(2 * MIB))
    etc = top / "etc"
    etc.mkdir()
    for index in range(200):
        (etc / f"{index}.conf").write_text(block[index * 100 : index * 100 + index * 7])


def _write_oddities(top: pathlib.Path, numbers: random.Random) -> None:
    """Write what a copy easily loses."""
    (top / "etc/link").symlink_to("../srv/0/deep")
    (top / "etc/hard").hardlink_to(top / "etc/7.conf")
    (top / "etc/8.conf").chmod(0o4750)
    os.chown(top / "etc/9.conf", 1000, 1001)
    os.setxattr(top / "etc/10.conf", "user.colour", b"blue")
    os.mknod(top / "etc/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.utime(top / "etc/11.conf", ns=(1, 1_234_567_890_123_456_789))
    with (top / "sparse").open("wb") as sparse:
        sparse.seek(200 * MIB)
        sparse.write(numbers.randbytes(MIB))
        sparse.truncate(300 * MIB)
    (top / "zeros").write_bytes(bytes(8 * MIB))


def _text(numbers: random.Random, size: int) -> str:
    words = ["".join(numbers.choices("etaoinshrdlu", k=numbers.randint(2, 9))) for _ in range(3000)]
    return " ".join(numbers.choices(words, k=size // 4))[:size]
