# SPDX-License-Identifier: Apache-2.0
"""What a system says on its console when it boots: who it is, and a digest over all its files."""

import pathlib
import re
from dataclasses import dataclass

from tests.lab import disks

# Prints a digest over what all files below a directory are, hold and carry, in one file system.
_DESCRIBE = """\
#!/bin/bash
set -euo pipefail
export LC_ALL=C TMPDIR=/run
cd "$1"
{
    find . -xdev -printf '%p %y %m %U:%G %n %s %b %T@ %l\\n' | sort
    find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum
    find . -xdev -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex
} | sha256sum | cut -d ' ' -f 1
"""
# A bind mount shows what lies below /dev, /proc and the others, too.
_REPORT = """\
#!/bin/bash
set -euo pipefail
mkdir /run/whole
mount --bind / /run/whole
root=$(blkid -s UUID -o value "$(findmnt -n -o SOURCE /)")
echo "IDENTITY $(cat /etc/machine-id) $(cat /etc/hostname) $root" >/dev/console
files=$(describe-files /run/whole)
echo "FILES $files" >/dev/console
umount /run/whole
"""
# Before the root file system is mounted for writing: so these are the files as they were deployed.
_UNIT = """\
[Unit]
Description=Say who this is
DefaultDependencies=no
Before=systemd-remount-fs.service
[Service]
Type=oneshot
Environment=PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/local/sbin/report-identity
"""


@dataclass(frozen=True)
class Identity:
    """Who a system is; ``files`` is the digest over all its files."""

    machine_id: str
    hostname: str
    root_uuid: str
    files: str

    @property
    def login_prompt(self) -> str:
        """What shows that it has booted to its end."""
        return self.hostname + " login:"


def install(top: pathlib.Path) -> None:
    """Put the report into the system below ``top``."""
    for name, text in (("describe-files", _DESCRIBE), ("report-identity", _REPORT)):
        script = top / "usr/local/sbin" / name
        script.write_text(text)
        script.chmod(0o755)
    (top / "etc/systemd/system/report-identity.service").write_text(_UNIT)
    wants = top / "etc/systemd/system/sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "report-identity.service").symlink_to("../report-identity.service")


def digest(top: pathlib.Path) -> str:
    """Return the digest over all files of the system below ``top``, by its own programs."""
    return disks.run("chroot", top, "/usr/local/sbin/describe-files", "/").strip()


def read(console: str) -> Identity:
    """Return what a system has said.

    :raises: ValueError with the console's last lines when it has not.
    """
    who = re.search(r"IDENTITY (\w+) (\S+) ([\w-]+)", console)
    files = re.search(r"FILES ([0-9a-f]{64})", console)
    if who is None or files is None:
        raise ValueError("no report on the console: " + "\n".join(console.splitlines()[-40:]))
    return Identity(who[1], who[2], who[3], files[1])
