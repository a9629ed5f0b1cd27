# SPDX-License-Identifier: Apache-2.0
"""A raw image as one forward stream: the clusters that matter, and zeros for all else."""

from collections.abc import Iterator

from ipa_snapshot.images.forward import Clusters, Geometry


def raw_stream(geometry: Geometry, clusters: Clusters) -> Iterator[bytes]:
    """Yield the bytes of the disk, from the first to the last.

    :param clusters: not compressed, and in the order of the disk.
    """
    size, position = geometry.cluster_size, 0
    zeros = bytes(size)
    while (cluster := clusters.take()) is not None:
        if cluster.payload:
            for _ in range(position, cluster.index):
                yield zeros
            yield cluster.payload[: geometry.virtual_size - cluster.index * size]
            position = cluster.index + 1
    left = geometry.virtual_size - position * size
    while left > 0:
        yield zeros[:left]
        left -= size
