# SPDX-License-Identifier: Apache-2.0
"""Maps by partclone 0.3.23: ``partclone.<fs> -D`` writes a map in the format of GNU ddrescue."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, checked
from snapshot_core import process

_MEMORY = 1024 * process.MIB
_TIMEOUT_S = 300
_USED, _FREE = "+", "?"


def map_by_partclone(fs: str, view: View) -> FileSystemMap:
    """Return what partclone says of a file system.

    :raises: NotUnderstood, process.ProgramFailed, OSError
    """
    with tempfile.TemporaryDirectory(prefix="ipa-snapshot-map-") as directory:
        target = Path(directory, "map")
        process.run(
            "partclone." + fs, "--domain", "--quiet", "--source", view.path,
            "--output", str(target), "--logfile", str(Path(directory, "log")),
            memory=_MEMORY, timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        with target.open(encoding="ascii", errors="replace") as lines:
            return read_domain(lines, view, "partclone.%s" % fs)


def read_domain(lines: Iterable[str], view: View, known_by: str) -> FileSystemMap:
    """Return the map that a domain log holds; it must say something of every byte.

    :raises: NotUnderstood
    """
    rows = _Rows(lines)
    used = Extents.covering(rows.used())
    return checked(FileSystemMap(used, rows.position, known_by), view)


class _Rows:
    """The rows of a domain log; ``position`` is where what was read of them ends."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self.position = 0

    def used(self) -> Iterator[tuple[int, int]]:
        """Yield what is used.

        :raises: NotUnderstood
        """
        rows = (line.split() for line in self._lines if not line.startswith("#"))
        # the first row is ddrescue's own: where it is, and what it does
        for row in itertools.islice(rows, 1, None):
            start, size, is_used = self._read(row)
            self.position += size
            if is_used:
                yield start, size

    def _read(self, row: list[str]) -> tuple[int, int, bool]:
        try:
            start, size, status = int(row[0], 16), int(row[1], 16), row[2]
        except (LookupError, ValueError) as exc:
            raise NotUnderstood("partclone's map is not understood: %r" % row) from exc
        if start != self.position or status not in (_USED, _FREE):
            raise NotUnderstood("partclone's map has a gap or an unknown state: %r" % row)
        return start, size, status == _USED
