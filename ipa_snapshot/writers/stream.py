# SPDX-License-Identifier: Apache-2.0
"""The writer ``stream``: the used blocks of the disk, as a compressed qcow2, in one forward pass.

Nothing is kept anywhere but a bounded number of bytes in memory, and the digest of what was sent is
known when the last byte has left.
"""

import hashlib
import itertools
from collections.abc import Iterator

from oslo_log import log

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from ipa_snapshot.images.disk_clusters import DiskClusters, default_threads
from ipa_snapshot.images.forward import Geometry, forward_stream, in_blocks
from ipa_snapshot.images.qcow2 import choose_compression
from ipa_snapshot.writers.base import Destination, Writer, Written
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter

LOG = log.getLogger(__name__)

_BUFFER = 48 * 1024 * 1024
_BLOCK = 512 * 1024


class StreamWriter(Writer):
    """Sends what the file systems use and is not zero; everything else is a hole in the image."""

    schemes = frozenset({"http", "https", "nfs", "file"})

    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """See :meth:`.Writer.write`."""
        meter.phase("map")
        used_map = map_disk(source)
        compression = choose_compression(options)
        outlet = _Outlet(destination)
        meter.phase("stream", used_map.extents.total)
        if options.disk_format == "raw":
            bytes_read = _send_raw(source, used_map.extents, outlet, meter)
        else:
            bytes_read = _send_qcow2(source, used_map, compression, outlet, meter)
        return Written(
            outlet.size, outlet.sha512.hexdigest(), options.disk_format, compression,
            bytes_read, outlet.size, used_map,
        )  # fmt: skip


class _Outlet:
    """Where the stream leaves: its bytes are counted and digested while they pass."""

    def __init__(self, destination: Destination) -> None:
        self.size = 0
        self.sha512 = hashlib.sha512()
        self._destination = destination

    def send(self, stream: Iterator[bytes], length: int | None) -> None:
        self._destination.storage.write(self._destination.part, self._counted(stream), length)

    def _counted(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        for block in in_blocks(stream, _BLOCK):
            self.sha512.update(block)
            self.size += len(block)
            yield block


def _send_qcow2(
    source: Source, used_map: UsedMap, compression: str, outlet: _Outlet, meter: Meter
) -> int:
    geometry = Geometry.for_disk(source.size, compression)
    with DiskClusters(
        source, geometry, used_map.extents, used_map.unmapped, default_threads()
    ) as clusters:

        def stream() -> Iterator[bytes]:
            for piece in forward_stream(geometry, clusters, _BUFFER):
                yield piece
                meter.done_to(min(clusters.bytes_read, used_map.extents.total), outlet.size)

        outlet.send(stream(), None)
        return clusters.bytes_read


def _send_raw(source: Source, extents: Extents, outlet: _Outlet, meter: Meter) -> int:
    """Send every byte of the disk, those that are not used as zeros."""

    def stream() -> Iterator[bytes]:
        position = 0
        for start, length in itertools.chain(extents, [(source.size, 0)]):
            yield from _zeros(start - position)
            yield from meter.count(source.chunks(start, length), sent=True)
            position = start + length

    outlet.send(stream(), source.size)
    return extents.total


def _zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, _BLOCK))
        length -= _BLOCK
