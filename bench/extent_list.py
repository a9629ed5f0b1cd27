# SPDX-License-Identifier: Apache-2.0
"""A program: map a disk as the writer ``stream`` does, and write the map for nbdkit's extentlist.

It prints the number of used bytes, and the seconds that the map took.
"""

import sys
import time
from pathlib import Path

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import map_disk


def read_list(path: Path) -> Extents:
    """Read a list that this program wrote."""
    rows = (line.split() for line in path.read_text().splitlines())
    return Extents((int(start), int(length)) for start, length in rows)


def main(device: str, target: str) -> None:
    """Write the extents of ``device`` to the file ``target``, one a line: start and length."""
    began = time.monotonic()
    with open_source(device) as source:
        extents = map_disk(source).extents
    map_s = time.monotonic() - began
    with Path(target).open("w") as file:
        file.writelines("%d %d\n" % extent for extent in extents)
    print(extents.total, map_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
