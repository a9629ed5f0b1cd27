# SPDX-License-Identifier: Apache-2.0
"""The writer ``stream``: the used blocks of the disk, as a compressed qcow2, in one forward pass.

Nothing is kept anywhere but a bounded number of bytes in memory, and the digest of what was sent is
known when the last byte has left.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source
from ipa_snapshot.devices.used_map import UsedMap, map_disk
from ipa_snapshot.images.budget import Budget
from ipa_snapshot.images.compression import Costs
from ipa_snapshot.images.disk_clusters import DiskClusters
from ipa_snapshot.images.forward import Geometry, forward_stream, in_blocks
from ipa_snapshot.images.raw import raw_stream
from ipa_snapshot.writers.ahead import made_ahead
from ipa_snapshot.writers.base import Destination, Writer, Written
from ipa_snapshot.writers.link import measure_rate
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter
from snapshot_core.storage import parts
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)


class StreamWriter(Writer):
    """Sends what the file systems use and is not zero; everything else is a hole in the image."""

    schemes = frozenset({"http", "https", "nfs", "file"})
    passes_bytes = True

    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """See :meth:`.Writer.write`."""
        meter.phase("map")
        used_map = map_disk(source, lambda: meter.done(0))  # whoever wants an end is asked
        budget = Budget.for_machine(parts.PART)
        chosen = _choose(options, source, used_map, destination.storage, budget.threads)
        geometry = Geometry.for_disk(source.size, chosen.compression)
        is_raw = options.disk_format == "raw"
        # Raw is sent in the order of the disk. In a qcow2, what cannot be foreseen comes first.
        first = Extents() if is_raw else used_map.unmapped
        used, sha512, sent = used_map.extents, hashlib.sha512(), 0

        def blocks(clusters: DiskClusters) -> Iterator[bytes]:
            nonlocal sent
            stream = (
                raw_stream(geometry, clusters)
                if is_raw
                else forward_stream(geometry, clusters, budget.waiting)
            )
            for block in in_blocks(stream, budget.block):
                sha512.update(block)
                sent += len(block)
                meter.done_to(min(clusters.bytes_read, used.total), sent)
                yield block

        meter.phase("stream", used.total)
        with (
            DiskClusters(source, geometry, used, first, budget) as clusters,
            made_ahead(blocks(clusters), budget.blocks_ahead) as made,
        ):
            length = source.size if is_raw else None
            destination.write(made, length)
            return Written(
                sent, sha512.hexdigest(), options.disk_format, chosen.compression,
                clusters.bytes_read + chosen.bytes_read, sent + chosen.bytes_sent, used_map,
            )  # fmt: skip


@dataclass(frozen=True)
class _Choice:
    """A compression, and the bytes of the disk and to the storage that it took to choose it."""

    compression: str
    bytes_read: int = 0
    bytes_sent: int = 0


def _choose(
    options: ImageOptions, source: Source, used_map: UsedMap, storage: Storage, threads: int
) -> _Choice:
    if options.disk_format == "raw":
        return _Choice("none")
    if options.compression != "auto":
        return _Choice(options.compression)
    costs = Costs.measure(source, used_map.extents)
    if costs.on_any_link(threads):
        return _Choice("zstd", costs.bytes_read)
    try:
        link = measure_rate(storage)
    except (errors.WriteFailed, errors.StorageUnavailable) as exc:
        # A quota may have room for the image, and not for this beside it.
        LOG.warning(
            "Compression: zstd: how fast the storage is cannot be measured: %(reason)s",
            {"reason": exc},
        )
        return _Choice("zstd", costs.bytes_read)
    return _Choice(costs.quickest(link.rate, threads), costs.bytes_read, link.bytes_sent)
