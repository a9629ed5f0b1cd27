# SPDX-License-Identifier: Apache-2.0
"""Fill file systems with files and with junk that is deleted, crash them, copy and check them."""

import contextlib
import hashlib
import mmap
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ipa_snapshot.devices.extents import Extents
from tests.lab import disks

MIB = 1024 * 1024
JUNK = b"This was deleted, and must not be in the copy. "
CHECKS = {
    "ext": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
    "exfat": ["fsck.exfat", "-n"],
    "f2fs": ["fsck.f2fs", "-f", "--dry-run"],
    "ntfs": ["ntfsresize", "--info"],
}
# what mounts them where the name of the file system does not
_DRIVERS = {"ext2": "ext4", "ext3": "ext4", "ntfs": "ntfs-3g"}


def make_file(path: Path, size: int) -> Path:
    """Make a sparse file."""
    path.touch()
    os.truncate(path, size)
    return path


def copy(source: Path | str, extents: Extents, target: Path, size: int) -> Path:
    """Copy only what is in the map."""
    make_file(target, size)
    with open(source, "rb") as read, target.open("r+b") as write:
        for start, length in extents:
            read.seek(start)
            write.seek(start)
            for offset in range(0, length, 4 * MIB):
                write.write(read.read(min(length - offset, 4 * MIB)))
    return target


def fill(top: Path, seed: int = 1, junk_mib: int = 20, files: int = 60) -> None:
    """Write files of all kinds between junk, and delete the junk."""
    numbers = random.Random(seed)
    junk = top / "junk"
    junk.mkdir()
    for index in range(junk_mib):
        (junk / str(index)).write_bytes((JUNK * (MIB // len(JUNK) + 1))[:MIB])
        write_some(top / f"d{index % 5}", numbers, files // junk_mib, index)
    with contextlib.suppress(OSError):  # exFAT has none
        (top / "d0/link").symlink_to("../d1")
    with (top / "d1/sparse").open("wb") as sparse:
        sparse.seek(30 * MIB)
        sparse.write(numbers.randbytes(10000))
    disks.run("sync", "-f", top)
    for path in junk.iterdir():
        path.unlink()
    junk.rmdir()


def write_some(where: Path, numbers: random.Random, count: int, index: int) -> None:
    """Write files of several sizes."""
    where.mkdir(exist_ok=True)
    for one in range(count):
        (where / f"{index}-{one}").write_bytes(numbers.randbytes(numbers.choice([9, 5000, 300000])))


def junk_in(path: Path) -> int:
    """Count the blocks of 4096 bytes that are junk from their beginning."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(JUNK in content[at : at + 2 * len(JUNK)] for at in range(0, len(content), 4096))


def has_junk(path: Path) -> bool:
    """Tell whether any of the junk is there."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(JUNK) >= 0


def check(fs: str, device: str) -> None:
    """Have the file system's own tool find nothing wrong."""
    disks.run(*CHECKS[fs], device)


def crash(top: Path) -> dict[str, str]:
    """Write, fsync, delete while open, and cut the power; return what was promised."""
    promised = {}
    numbers = random.Random(5)
    doomed = []
    for index in range(40):
        name = "after/%d/%d" % (index % 7, index)
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        content = numbers.randbytes(200_000 + index)
        with (top / name).open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        promised[name] = hashlib.sha256(content).hexdigest()
    for index in range(3):
        # of many extents, and open when it is deleted: an orphan, which recovery frees
        file = (top / ("doomed-%d" % index)).open("wb", buffering=0)
        for part in range(300):
            file.seek(part * 16384)
            file.write(bytes([part % 255 + 1]) * 4096)
        os.fsync(file.fileno())
        doomed.append(file)
    for path in list((top / "d1").iterdir()) + list(top.glob("doomed-*")):
        path.unlink()
    for where in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        descriptor = os.open(where, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    disks.run("xfs_io", "-x", "-c", "shutdown -f", top)
    for file in doomed:
        file.close()
    return promised


def mounted(device: str, fs: str) -> contextlib.AbstractContextManager[Path]:
    """Mount any of the file systems that somebody mounts here, to write to it."""
    if fs == "exfat":
        return mounted_exfat(device)
    return disks.mounted(device, _DRIVERS.get(fs, fs), "rw" if fs == "ntfs" else "nodiscard")


@contextlib.contextmanager
def mounted_exfat(device: str) -> Iterator[Path]:
    """Mount an exFAT: kernels need not have it; this is the driver in user space."""
    with tempfile.TemporaryDirectory(prefix="lab-exfat-") as top:
        disks.run("mount.exfat-fuse", device, top)
        try:
            yield Path(top)
        finally:
            disks.run("umount", top)
