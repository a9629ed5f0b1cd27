# SPDX-License-Identifier: Apache-2.0
"""The raw stream has every byte of the disk in its place."""

from collections import deque
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ipa_snapshot.images.forward import Cluster, Geometry
from ipa_snapshot.images.raw import raw_stream

BITS = 9
SIZE = 1 << BITS


class Drawn:
    """Clusters that a test drew, in the order of the disk."""

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        self._clusters = deque(clusters)

    def take(self) -> Cluster | None:
        return self._clusters.popleft() if self._clusters else None


@given(
    sectors=st.integers(1, 40), used=st.sets(st.integers(0, 39)), zero=st.sets(st.integers(0, 39))
)
def test_every_cluster_is_in_its_place_and_all_else_is_zeros(
    sectors: int, used: set[int], zero: set[int]
) -> None:
    virtual_size = sectors * SIZE - SIZE // 2
    geometry = Geometry(virtual_size, BITS, "none")
    drawn = [
        Cluster(number, b"" if number in zero else bytes([number + 1]) * SIZE)
        for number in sorted(used)
        if number < sectors
    ]
    expected = bytearray(sectors * SIZE)
    for cluster in drawn:
        expected[cluster.index * SIZE : cluster.index * SIZE + len(cluster.payload)] = (
            cluster.payload
        )
    found = b"".join(raw_stream(geometry, Drawn(drawn)))  # type: ignore[arg-type]
    assert found == bytes(expected[:virtual_size])
