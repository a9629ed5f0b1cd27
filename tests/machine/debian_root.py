# SPDX-License-Identifier: Apache-2.0
"""Debian as a machine has it on its disk, kept as an archive: with a kernel, GRUB and LVM.

Made before the tests, which have no network: ``python -m tests.machine.debian_root``.
"""

import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.machine import ramdisk

_CACHE = pathlib.Path(__file__).parents[2] / ".cache/machine"
# Beyond Debian's smallest: acl and attr describe files, lvm2 finds the root of one variant.
_PACKAGES = (
    "acl",
    "attr",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "linux-image-cloud-amd64",
    "lvm2",
    "systemd-sysv",
    "udev",
)
# What apt has fetched, and what makes a machine a certain one.
_DROPPED = ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./etc/machine-id", "./etc/hostname")


def cached() -> pathlib.Path | None:
    """Return the archive for :func:`unpack`, if it was built."""
    archive = _place()
    return archive if archive.exists() else None


def unpack(archive: pathlib.Path, top: pathlib.Path) -> None:
    """Put the system into an empty file system."""
    _run("tar", "--extract", *_TAR, "--file", str(archive), "--directory", str(top))


def build() -> pathlib.Path:
    """Return the archive, built if the cache has none.

    :raises: RuntimeError with what the failed program printed last.
    """
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archive = _place()
        if not archive.exists():
            for old in _CACHE.glob("debian-*.tar.zst"):
                old.unlink()
            with tempfile.TemporaryDirectory(prefix="build-", dir=_CACHE) as scratch:
                _build(pathlib.Path(scratch, "root")).rename(archive)
        return archive


_TAR = ("--zstd", "--numeric-owner", "--xattrs", "--xattrs-include=*")


def _place() -> pathlib.Path:
    """Name the archive by what it is made of; only Debian's own updates are not seen."""
    made_of = (ramdisk.codename(), pathlib.Path(__file__).read_text())
    return _CACHE / ("debian-%s.tar.zst" % hashlib.sha256(repr(made_of).encode()).hexdigest()[:16])


def _build(root: pathlib.Path) -> pathlib.Path:
    began = time.monotonic()
    _say("building Debian, in some minutes")
    mirror, _security = ramdisk.mirrors()
    # Whatever debootstrap mounts and starts ends with it.
    cage = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    _run(
        *cage, "--mount-proc", "--", "debootstrap", "--variant=minbase",
        "--include=" + ",".join(_PACKAGES), ramdisk.codename(), str(root), mirror,
    )  # fmt: skip
    archive = root.with_suffix(".tar.zst")
    excluded = ["--exclude=" + pattern for pattern in _DROPPED]
    _run("tar", "--create", *_TAR, "--file", str(archive), *excluded, "--directory", str(root), ".")
    _say("built in %d s" % (time.monotonic() - began))
    return archive


def _run(*command: str) -> None:
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=env, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", timeout=3600,
    )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise RuntimeError("%s ended with %d:\n%s" % (" ".join(command), done.returncode, tail))


def _say(text: str) -> None:
    print("debian: " + text, file=sys.stderr, flush=True)


def main() -> None:
    """Build it, and print its file with its size in MB."""
    archive = build()
    print("%6.1f MB  %s" % (archive.stat().st_size / 1e6, archive))


if __name__ == "__main__":
    main()
