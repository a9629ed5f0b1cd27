# SPDX-License-Identifier: Apache-2.0
"""The images that qemu-img makes: how they are compressed, and how large they can be."""

from collections.abc import Callable

from oslo_log import log

from ipa_snapshot.devices.source import Source
from snapshot_core.image_options import ImageOptions

LOG = log.getLogger(__name__)

# The header, and the first blocks of each table, of even the smallest image.
OVERHEAD = 4 * 1024 * 1024
_CLUSTER = 64 * 1024  # qemu-img's default
_ZERO = bytes(_CLUSTER)


def choose_compression(options: ImageOptions) -> str:
    """Return ``zstd``, ``zlib`` or ``none`` for the ``options``."""
    if options.disk_format == "raw":
        return "none"
    if options.compression == "auto":
        LOG.info("Compression: zstd, which every QEMU since 5.1 reads")
        return "zstd"
    return options.compression


def needed_space(source: Source, on_done: Callable[[int], None]) -> int:
    """Read the disk and return how many bytes its qcow2 has at most, compressed or not.

    :raises: ReadFailed
    """
    used = done = 0
    for chunk in source.chunks():
        used += _used_clusters(chunk) * _CLUSTER
        done += len(chunk)
        on_done(done)
    # an L2 entry of 8 bytes for each cluster of the disk, refcounts of 2, and the header
    return used + source.size // _CLUSTER * 10 + OVERHEAD


def _used_clusters(chunk: bytes) -> int:
    pieces = (chunk[at : at + _CLUSTER] for at in range(0, len(chunk), _CLUSTER))
    return sum(not _ZERO.startswith(piece) for piece in pieces)
