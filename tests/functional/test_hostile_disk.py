# SPDX-License-Identifier: Apache-2.0
"""What a tenant wrote into labels and names drives no terminal."""

import pathlib
import subprocess

import pytest

from tests.functional import commands
from tests.lab import disks

MIB = 1 << 20
EVIL = "\x1b]0;x\x07\x1b[2J"


@pytest.fixture(params=["ext4", "xfs", "btrfs", "vfat", "swap"])
def disk(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """A disk with one partition; its name and the label of its file system drive a terminal."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(400 * MIB)
    disks.run("sfdisk", "-q", path, stdin='label: gpt\nstart=1MiB, size=380MiB, name="%s"\n' % EVIL)
    with disks.LoopDevice(path, MIB, 380 * MIB) as loop:
        command = {
            "ext4": ["mkfs.ext4", "-q", "-L", EVIL], "xfs": ["mkfs.xfs", "-q", "-L", EVIL],
            "btrfs": ["mkfs.btrfs", "-q", "-L", EVIL], "swap": ["mkswap", "-q", "-L", EVIL],
            "vfat": ["mkfs.vfat", "-n", EVIL],
        }[request.param]  # fmt: skip
        if subprocess.run([*command, loop.path], check=False, capture_output=True).returncode:
            # it does not write what others could
            plain = {"xfs": "mkfs.xfs", "vfat": "mkfs.vfat", "btrfs": "mkfs.btrfs"}[request.param]
            disks.run(plain, loop.path)
    return path


def test_labels_do_not_drive_a_terminal(disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "images").mkdir()
    outcomes = [
        commands.run("ipa-snapshot", "inspect", disk, "--debug", *more) for more in ([], ["--json"])
    ]
    where = "file://%s/images" % tmp_path
    arguments = ("stream", where, "image", "--device", disk, "--debug")
    outcomes.append(commands.run("ipa-snapshot", *arguments))
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
        for text in (outcome.out, outcome.err):
            assert text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
