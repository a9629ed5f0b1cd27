# SPDX-License-Identifier: Apache-2.0
"""``make demo``: a snapshot of a disk image through the real agent, and the proof that it is good.

Everything runs in a network namespace with nothing but a loopback interface. Nothing has to be
configured, and nothing but the image stays.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.lab import disk_maker, disks, namespaces
from tests.lab.agent import Agent, FakeDisk
from tests.lab.wsgidav_server import WsgiDav

_BIN = pathlib.Path(sys.executable).parent
_IMAGES = pathlib.Path("/var/tmp/ipa-snapshot-demo")
_PASSWORD = "demo-password"


def main() -> int:
    """Run the demo and return its exit code; an argument names where the image is to stay."""
    # Before any thread starts: from here on, 127.0.0.1 is this process's own.
    namespaces.enter()
    images = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else _IMAGES
    images.mkdir(exist_ok=True)
    image = images / time.strftime("snapshot-%Y%m%d-%H%M%S.qcow2")
    with tempfile.TemporaryDirectory(prefix="ipa-snapshot-demo-", dir="/var/tmp") as scratch:
        work = pathlib.Path(scratch)
        _say(
            "Making a disk: GPT, EFI system partition, swap, xfs, ext4 with files and deleted files"
        )
        disk = disk_maker.make_disk(work / "disk.raw")
        _take_snapshot(work, disk, image)
        _say("What qemu-img says of the image")
        _show("qemu-img", "info", "-f", "qcow2", str(image))
        _show("qemu-img", "check", "-f", "qcow2", str(image))
        if not _compare(work, disk, image):
            return 1
    print("The image is %s: remove it when you have seen it." % image)
    return 0


def _take_snapshot(work: pathlib.Path, disk: disks.Disk, image: pathlib.Path) -> None:
    store = work / "storage"
    store.mkdir()
    with (
        disks.LoopDevice(disk.path, read_only=True) as loop,
        WsgiDav(store, "demo", _PASSWORD) as storage,
        Agent([FakeDisk(str(loop.path), disk.size, serial="DEMO-1")]) as agent,
    ):
        _say("A real ironic-python-agent answers at %s, WsgiDAV at %s" % (agent.url, storage.url))
        token, auth = work / "token", work / "auth.json"
        for path, text in (
            (token, agent.token),
            (auth, json.dumps({"username": "demo", "password": _PASSWORD})),
        ):
            path.touch(mode=0o600)
            path.write_text(text)
        _show(
            str(_BIN / "ironic-snapshot"), "take",
            "--agent-url", agent.url, "--agent-token-file", str(token),
            "--storage-url", storage.url, "--auth-file", str(auth),
            "--image-ref", "file://%s" % image, "--expected-serial", "DEMO-1",
        )  # fmt: skip
        if left := [path.name for path in store.iterdir()]:
            raise SystemExit("the storage still holds %s" % left)


def _compare(work: pathlib.Path, disk: disks.Disk, image: pathlib.Path) -> bool:
    _say("Restoring the image, and comparing every file with the original's")
    restored = work / "restored.raw"
    _show("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(restored))
    same = True
    for partition in disk.partitions:
        if partition.fs == "swap":
            continue
        before, after = disks.checksums(disk.path, partition), disks.checksums(restored, partition)
        equal = bool(before) and before == after
        print("%-5s %-5s %4d files: %s" % (
            partition.name, partition.fs, len(before), "equal" if equal else "DIFFERENT",
        ))  # fmt: skip
        same = same and equal
    return same


def _show(*command: str) -> None:
    print("$ " + " ".join([pathlib.Path(command[0]).name, *command[1:]]), flush=True)
    subprocess.run(command, check=True)


def _say(text: str) -> None:
    print("\n== " + text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
