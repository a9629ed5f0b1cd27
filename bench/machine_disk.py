# SPDX-License-Identifier: Apache-2.0
"""The disk that all methods copy: made once, on loop devices that read past the page cache."""

import contextlib
import fcntl
import functools
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ipa_snapshot.devices.extents import Extents
from tests.lab import disk_maker, disks

MIB = 1024 * 1024
_OS_LIKE = Path("/usr")
_BLKFLSBUF = 0x1261  # linux/fs.h: forget what is cached of the device
_CHUNK = 4 * MIB
_SECTOR = 512  # of /sys/block/*/stat, whatever the device's is

Fill = Callable[[Path, int], None]


@dataclass(frozen=True)
class MachineDisk:
    """A disk, as a loop device and as one for each partition, since the kernel may make none."""

    disk: disks.Disk
    device: str
    partition_devices: dict[str, str]

    @property
    def devices(self) -> list[str]:
        """All its devices."""
        return [self.device, *self.partition_devices.values()]

    def bytes_read(self) -> int:
        """Return what was read so far, by the kernel's count (``Documentation/block/stat``)."""
        stats = (Path("/sys/class/block", Path(device).name, "stat") for device in self.devices)
        return sum(int(stat.read_text().split()[2]) for stat in stats) * _SECTOR

    def forget(self) -> None:
        """Make the kernel forget what it has cached of the disk."""
        for device in self.devices:
            with open(device, "rb") as file:
                fcntl.ioctl(file, _BLKFLSBUF)


@contextlib.contextmanager
def attached(disk: disks.Disk) -> Iterator[MachineDisk]:
    """Attach the disk to loop devices for the time of a ``with``."""
    with contextlib.ExitStack() as stack:

        def attach(offset: int = 0, size: int | None = None) -> str:
            loop = stack.enter_context(disks.LoopDevice(disk.path, offset, size, read_only=True))
            # Else the page cache of the file answers, and no rate that is set for the disk is true.
            subprocess.run(["losetup", "--direct-io=on", loop.path], check=True)
            return loop.path

        yield MachineDisk(
            disk, attach(), {part.name: attach(part.offset, part.size) for part in disk.partitions}
        )


def make_disk(path: Path, size: int, fill: Fill, amount: int) -> disks.Disk:
    """Make a disk with ``amount`` bytes of files, and as many that were deleted.

    :param fill: writes files of so many bytes into a directory.
    """
    disk = disk_maker.make_disk(path, size, data_mib=8, junk_mib=8)
    root = disk.partition("root")
    with (
        disks.LoopDevice(path, root.offset, root.size) as loop,
        disks.mounted(loop.path, root.fs) as top,
    ):
        for name in ("deleted", "kept"):
            (top / name).mkdir()
            fill(top / name, amount)
            # Files get their blocks late: those of the first must not be free before.
            disks.run("sync", "--file-system", top)
        shutil.rmtree(top / "deleted")
    return disk


def copy_operating_system(top: Path, amount: int) -> None:
    """Copy files of this machine's /usr: a sample of it all, of ``amount`` bytes at most.

    The same files in every call, and in the order in which they lie in their directories.
    """
    for source in _sample(amount):
        target = top / source.relative_to(_OS_LIKE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def write_noise(top: Path, amount: int) -> None:
    """Write files that no codec makes smaller."""
    for number in range(amount // (16 * MIB)):
        (top / str(number)).write_bytes(random.randbytes(16 * MIB))


def keep_used(disk: disks.Disk, extents: Extents, target: Path) -> None:
    """Write the image that a snapshot must restore to: what is used, and zeros elsewhere."""
    with disk.path.open("rb") as source, target.open("wb") as file:
        file.truncate(disk.size)
        for start, length in pieces(extents):
            os.pwrite(file.fileno(), os.pread(source.fileno(), length, start), start)


def pieces(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut ranges into such of at most 4 MiB."""
    for start, length in extents:
        for at in range(start, start + length, _CHUNK):
            yield at, min(_CHUNK, start + length - at)


@functools.cache
def _sample(amount: int) -> list[Path]:
    files = [path for path in sorted(_OS_LIKE.rglob("*"))
             if path.is_file() and not path.is_symlink()]  # fmt: skip
    chosen, left = [], amount
    for source in random.Random(1).sample(files, len(files)):
        left -= source.stat().st_size
        if left < 0:
            break
        chosen.append(source)
    return sorted(chosen)
