# SPDX-License-Identifier: Apache-2.0
"""Loop devices over sparse files, and what the files of a disk's partitions hold."""

import contextlib
import dataclasses
import errno
import hashlib
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Self

_READ_ONLY_MOUNT = {
    "ext4": "ro,noload",
    "xfs": "ro,norecovery,nouuid",
    "btrfs": "ro,norecovery",
}


@dataclasses.dataclass(frozen=True)
class Partition:
    """Where a partition lies on its disk, and which file system it has."""

    name: str
    fs: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Disk:
    """A raw image file with a GPT."""

    path: pathlib.Path
    size: int
    partitions: tuple[Partition, ...]
    sector_size: int = 512

    def partition(self, name: str) -> Partition:
        """Return the partition called ``name`` (``esp``, ``swap``, ``data``, ``root``)."""
        return next(part for part in self.partitions if part.name == name)


def run(*command: str | os.PathLike[str], stdin: str | None = None) -> str:
    """Run a program and return what it printed; what it complained goes into the error."""
    env = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, errors="replace", env=env, check=False
    )
    if done.returncode != 0:
        shown = " ".join(map(str, command))
        raise RuntimeError(f"{shown} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


class LoopDevice:
    """A loop device over (a part of) a file, ``path`` being its /dev/loopN.

    A partition is reached with ``offset`` and ``size``, as the kernel may scan no partition tables.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        offset: int = 0,
        size: int | None = None,
        read_only: bool = False,
        sector_size: int = 512,
    ) -> None:
        self.path = ""
        self._fd = -1
        self._command = ["losetup", "--find", "--show", "--offset", str(offset)]
        self._command += ["--sector-size", str(sector_size)]
        if size is not None:
            self._command += ["--sizelimit", str(size)]
        if read_only:
            self._command.append("--read-only")
        self._command.append(os.fspath(path))

    def __enter__(self) -> Self:
        self.path = run(*self._command).strip()
        self._fd = os.open(self.path, os.O_RDONLY)
        # Detached while open it goes with its last user, so that it
        # does not outlive this process, however that may end.
        run("losetup", "--detach", self.path)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        backing = pathlib.Path("/sys/block", pathlib.Path(self.path).name, "loop/backing_file")
        deadline = time.monotonic() + 30
        while backing.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.path} is still mounted or open somewhere")
            time.sleep(0.02)


@contextlib.contextmanager
def mounted(device: str, fs: str, options: str = "nodiscard") -> Iterator[pathlib.Path]:
    """Mount ``device`` in a temporary directory, and unmount it again.

    Without discards, which btrfs does by itself and which would turn deleted files into holes.
    """
    with tempfile.TemporaryDirectory(prefix="lab-mount-") as where:
        run("mount", "-t", fs, "-o", options, device, where)
        try:
            yield pathlib.Path(where)
        finally:
            run("umount", where)


def checksums(image_path: str | os.PathLike[str], partition: Partition) -> dict[str, str]:
    """Describe every file of a partition of a raw image, or of a block device, to compare it.

    :returns: relative path → kind, mode, owner, number of links, content's sha256 or link target,
        time of the last change, device number, and extended attributes; without that time on
        vfat, which is read by copying. A swap partition has one entry, for its header.
    """
    if partition.fs == "swap":
        with open(image_path, "rb") as image:
            image.seek(partition.offset)
            return {"(header)": hashlib.sha256(image.read(4096)).hexdigest()}
    if partition.fs == "vfat":
        with tempfile.TemporaryDirectory(prefix="lab-vfat-") as where:
            # The kernel has no vfat here; mtools reads it from the file.
            run("mcopy", "-s", "-i", f"{image_path}@@{partition.offset}", "::", where)
            return describe_tree(pathlib.Path(where), timed=False)
    with (
        LoopDevice(image_path, partition.offset, partition.size, read_only=True) as loop,
        mounted(loop.path, partition.fs, _READ_ONLY_MOUNT[partition.fs]) as where,
    ):
        return describe_tree(where)


def describe_tree(top: pathlib.Path, *, timed: bool = True) -> dict[str, str]:
    """Describe every file below a directory, as :func:`checksums` does."""
    return {str(path.relative_to(top)): _describe(path, timed) for path in sorted(top.rglob("*"))}


def _describe(path: pathlib.Path, timed: bool) -> str:
    status = path.lstat()
    words = [f"{status.st_mode:o}", f"{status.st_uid}:{status.st_gid}", f"links={status.st_nlink}"]
    if path.is_symlink():
        words.append(f"-> {os.readlink(path)}")
    elif path.is_file():
        with path.open("rb") as content:
            words.append(hashlib.file_digest(content, "sha256").hexdigest())
    if timed:
        words.append(f"mtime={status.st_mtime_ns}")
    words.append(f"rdev={status.st_rdev:x}")
    for name in _attributes(path):
        words.append(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}")
    return " ".join(words)


def _attributes(path: pathlib.Path) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:  # exFAT
            return []
        raise
