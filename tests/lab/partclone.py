# SPDX-License-Identifier: Apache-2.0
"""What partclone takes for used, to compare with: ``partclone.<fs> -D`` writes a map."""

import tempfile
from pathlib import Path

from ipa_snapshot.devices.extents import Extents
from tests.lab import disks


def used(fs: str, path: Path) -> Extents:
    """Return what partclone 0.3.23 would copy of a file system, in the format of GNU ddrescue."""
    with tempfile.TemporaryDirectory(prefix="lab-partclone-") as directory:
        target = Path(directory, "map")
        disks.run(
            "partclone." + fs, "--domain", "--quiet", "--source", path,
            "--output", target, "--logfile", Path(directory, "log"),
        )  # fmt: skip
        lines = target.read_text(encoding="ascii").splitlines()
    # the first row is ddrescue's own: where it is, and what it does
    rows = [line.split() for line in lines if not line.startswith("#")][1:]
    return Extents((int(start, 16), int(size, 16)) for start, size, state in rows if state == "+")
