# SPDX-License-Identifier: Apache-2.0
"""The writer ``stream``: the used blocks of the disk, as a compressed qcow2, in one forward pass.

Nothing is kept anywhere but a bounded number of bytes in memory, and the digest of what was sent is
known when the last byte has left.
"""

import hashlib
from collections.abc import Iterator

from oslo_log import log

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from ipa_snapshot.images.compression import Costs
from ipa_snapshot.images.disk_clusters import DiskClusters, default_threads
from ipa_snapshot.images.forward import Geometry, forward_stream, in_blocks
from ipa_snapshot.images.raw import raw_stream
from ipa_snapshot.writers.ahead import made_ahead
from ipa_snapshot.writers.base import Destination, Writer, Written
from ipa_snapshot.writers.link import measure_rate
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

# The memory of a snapshot: compressed clusters that wait for their place, blocks that wait to be
# sent, what the storage keeps of them, and the windows of each thread (see DiskClusters).
_BUFFER = 48 * 1024 * 1024
_BLOCK = 512 * 1024
_BLOCKS_AHEAD = 8


class StreamWriter(Writer):
    """Sends what the file systems use and is not zero; everything else is a hole in the image."""

    schemes = frozenset({"http", "https", "nfs", "file"})
    reads_source = True

    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """See :meth:`.Writer.write`."""
        meter.phase("map")
        used_map = map_disk(source)
        compression = _choose_compression(options, source, used_map, destination.storage)
        geometry = Geometry.for_disk(source.size, compression)
        is_raw = options.disk_format == "raw"
        # Raw is sent in the order of the disk. In a qcow2, what cannot be foreseen comes first.
        first = Extents() if is_raw else used_map.unmapped
        used, sha512, sent = used_map.extents, hashlib.sha512(), 0

        def blocks(clusters: DiskClusters) -> Iterator[bytes]:
            nonlocal sent
            stream = (
                raw_stream(geometry, clusters)
                if is_raw
                else forward_stream(geometry, clusters, _BUFFER)
            )
            for block in in_blocks(stream, _BLOCK):
                sha512.update(block)
                sent += len(block)
                meter.done_to(min(clusters.bytes_read, used.total), sent)
                yield block

        meter.phase("stream", used.total)
        with (
            DiskClusters(source, geometry, used, first, default_threads()) as clusters,
            made_ahead(blocks(clusters), _BLOCKS_AHEAD) as made,
        ):
            length = source.size if is_raw else None
            destination.storage.write(destination.part, made, length)
            return Written(
                sent, sha512.hexdigest(), options.disk_format, compression, clusters.bytes_read,
                sent, used_map,
            )  # fmt: skip


def _choose_compression(
    options: ImageOptions, source: Source, used_map: UsedMap, storage: Storage
) -> str:
    if options.disk_format == "raw":
        return "none"
    if options.compression != "auto":
        return options.compression
    costs = Costs.measure(source, used_map.extents)
    if costs is None:
        return "zstd"
    return costs.quickest(lambda: measure_rate(storage), default_threads())
