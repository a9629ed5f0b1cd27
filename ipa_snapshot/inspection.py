# SPDX-License-Identifier: Apache-2.0
"""``ipa-snapshot inspect``: what a snapshot of a disk would read, skip and send, and why."""

from dataclasses import dataclass
from typing import Any

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.partitions import Partition, Volume
from ipa_snapshot.devices.source import Source, open_source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from ipa_snapshot.images.budget import Budget
from ipa_snapshot.images.disk_clusters import DiskClusters
from ipa_snapshot.images.forward import Geometry
from snapshot_core.terminal import size_text

_SHADES = "·░▒▓█"
_UNKNOWN = "?"


@dataclass(frozen=True)
class Inspection:
    """A disk's map, and by samples of it what its image would be; sizes in bytes."""

    path: str
    size: int
    used_map: UsedMap
    estimated_size: int
    estimated_s: float

    def to_wire(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        used = self.used_map.extents.total
        return {
            "device": self.path,
            "virtual_size": self.size,
            "used": used,
            "skipped": self.size - used,
            "partitions": [partition.to_wire() for partition in self.used_map.partitions],
            "warnings": list(self.used_map.warnings),
            "estimated_size": self.estimated_size,
            "estimated_s": round(self.estimated_s, 1),
        }


def inspect_disk(path: str) -> Inspection:
    """Examine a disk or an image file; nothing is written anywhere.

    :raises: DeviceNotFound, DeviceInUse, InvalidRequest, ReadFailed
    """
    with open_source(path) as source:
        used_map = map_disk(source)
        return Inspection(path, source.size, used_map, *_estimate(source, used_map))


def _estimate(source: Source, used_map: UsedMap) -> tuple[int, float]:
    """Return the image's size, and the seconds that reading and compressing takes here.

    A network is not counted: it may be what limits.
    """
    geometry = Geometry.for_disk(source.size, "zstd")
    used, unmapped = used_map.extents, used_map.unmapped
    with DiskClusters(source, geometry, used, unmapped, Budget.for_machine()) as clusters:
        count = len(clusters.left())
        size = clusters.estimate().size if count else 0
        elapsed_s = clusters.seconds_each() * count if count else 0.0
    tables = (3 + -(-count // geometry.l2_entries)) * geometry.cluster_size
    return size + tables, elapsed_s


def picture(used_map: UsedMap, size: int, width: int) -> str:
    """Draw the disk as one line of ``width`` characters.

    The darker, the more is used; what no file system vouches for is a question mark.
    """
    line = ""
    for column in range(width):
        begin, end = column * size // width, (column + 1) * size // width
        used = used_map.extents.clipped(begin, end - begin).total
        unknown = used_map.unmapped.clipped(begin, end - begin).total
        if unknown * 2 > end - begin:
            line += _UNKNOWN
        else:
            line += _SHADES[-(-used * (len(_SHADES) - 1) // max(1, end - begin))]
    return line


def _row(name: str, start: str, row: Partition | Volume) -> tuple[str, ...]:
    return (
        name, start, size_text(row.size), row.fs or "-", size_text(row.used),
        size_text(row.size - row.used), row.journal or "-", row.used_source,
    )  # fmt: skip


def report(inspection: Inspection, width: int) -> str:
    """Return the inspection as people read it, the picture ``width`` characters wide."""
    rows: list[tuple[str, ...]] = [
        ("", "START", "SIZE", "FS", "USED", "SKIPPED", "JOURNAL", "KNOWN BY")
    ]
    for part in inspection.used_map.partitions:
        rows.append(_row(str(part.number or "-"), size_text(part.start), part))
        rows += [_row(volume.name, "", volume) for volume in part.volumes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    used: Extents = inspection.used_map.extents
    return "\n".join(
        [
            picture(inspection.used_map, inspection.size, width),
            "%s used, ? not known, %s free" % (_SHADES[1:], _SHADES[0]),
            *lines,
            *("warning: " + warning for warning in inspection.used_map.warnings),
            "%s of %s used, %s skipped; as a compressed image about %s, %d s without the network"
            % (
                size_text(used.total), size_text(inspection.size),
                size_text(inspection.size - used.total), size_text(inspection.estimated_size),
                inspection.estimated_s,
            ),
        ]
    )  # fmt: skip
