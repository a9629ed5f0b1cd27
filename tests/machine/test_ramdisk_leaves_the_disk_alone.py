# SPDX-License-Identifier: Apache-2.0
"""Booting the ramdisk writes nothing to the disk, whatever lies on it."""

import pathlib
import re
import secrets

from tests.lab import disks
from tests.machine import guest, ramdisk, tempting_disk
from tests.machine.machine import Drive, Machine
from tests.machine.tempting_disk import TemptingDisk

# What the element sets, as it is without it; and what keeps an array that is assembled from being
# written to on Debian 12: its own start_ro, and mdadm's doubt whether it belongs to this host.
_UNDONE = {
    "etc/lvm/lvmlocal.conf": "",
    "etc/mdadm.conf": "HOMEHOST <ignore>\n",
    "etc/mdadm/mdadm.conf": "HOMEHOST <ignore>\n",
    "etc/modprobe.d/ipa-snapshot.conf": "",
    "etc/modprobe.d/mdadm.conf": "",
}


def test_booting_the_ramdisk_leaves_the_disk_alone(
    machine: tuple[Machine, str], temptations: TemptingDisk
) -> None:
    running, before = machine

    seen = guest.collect(running)

    for kind in ("linux_raid_member", "LVM2_member", "swsuspend", "ext4"):
        assert 'FSTYPE="%s"' % kind in seen["lsblk-full"], "the machine does not see its disk"
    assert kinds_above_the_disk(seen) == {"part"}
    assert "/dev/vda" not in seen["mount"]
    assert tempting_disk.digest(temptations.path) == before


def test_a_system_without_these_settings_writes_to_this_disk(
    built: ramdisk.Ramdisk, temptations: TemptingDisk, tmp_path: pathlib.Path
) -> None:
    disk = tmp_path / "disk.raw"
    disks.run("cp", "--sparse=always", temptations.path, disk)

    drive = Drive(disk, tempting_disk.SERIAL)
    with Machine(built, [drive], secrets.token_urlsafe(32), files=_UNDONE) as running:
        seen = guest.collect(running)

    assert kinds_above_the_disk(seen) == {"part", "lvm", "raid1"}
    assert tempting_disk.digest(disk) != tempting_disk.digest(temptations.path)


def kinds_above_the_disk(seen: dict[str, str]) -> set[str]:
    """Return the types of the devices that the machine's kernel has made of its disk."""
    return set(re.findall(r'\bTYPE="(\w+)"', seen["lsblk-full"])) - {"disk", "loop", "rom"}
