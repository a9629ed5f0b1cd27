# SPDX-License-Identifier: Apache-2.0
"""The forward layout: whatever the clusters and the estimates, the image is right."""

import hashlib
import pathlib
import random
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import zstandard
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from ipa_snapshot.images.budget import Budget
from ipa_snapshot.images.forward import Cluster, Geometry, forward_stream, in_blocks
from ipa_snapshot.images.sampling import Estimate, estimate

KINDS = ("zero", "text", "noise", "constant")


def content(kind: str, index: int, size: int) -> bytes:
    match kind:
        case "zero":
            return bytes(size)
        case "text":
            return (b"cluster %d of the disk " % index * (size // 16))[:size]
        case "noise":
            return hashlib.shake_256(b"%d" % index).digest(size)
        case _:
            return b"\xff" * size


def compress(codec: str, data: bytes, size: int) -> bytes:
    if not any(data):
        return b""
    data = data.ljust(size, b"\0")
    if codec == "none":
        return data
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data)
    packer = zlib.compressobj(1, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


@dataclass
class ListedClusters:
    """Clusters in memory, with estimates that are wrong by a factor each.

    The disk ``stalls`` before each so many clusters.
    """

    geometry: Geometry
    disk: dict[int, bytes]
    factors: Sequence[float]
    stalls: int = 3
    taken: int = 0
    asked: int = 0
    plainly: Sequence[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = list(self.disk)

    def take(self) -> Cluster | None:
        if self.taken == len(self.order):
            return None
        index = self.order[self.taken]
        self.taken += 1
        return Cluster(index, self._compressed(index))

    def is_ready(self) -> bool:
        return self.taken % self.stalls != 0

    def _compressed(self, index: int) -> bytes:
        geometry = self.geometry
        return compress(geometry.compression, self.disk[index], geometry.cluster_size)

    def left(self) -> Sequence[int]:
        return self.order[self.taken :]

    def estimate(self) -> Estimate:
        factor = self.factors[self.asked % len(self.factors)]
        self.asked += 1
        size = sum(len(self._compressed(index)) for index in self.left())
        return Estimate(int(factor * size), size // 50)

    def rest(self) -> Sequence[int]:
        self.plainly = [index for index in self.left() if any(self.disk[index])]
        self.taken = len(self.order)
        return self.plainly

    def plain(self, index: int) -> bytes:
        return self.disk[index]


def write_both(
    directory: pathlib.Path, listed: ListedClusters, buffer_size: int
) -> tuple[pathlib.Path, pathlib.Path]:
    size = listed.geometry.virtual_size
    raw, image = directory / "disk.raw", directory / "disk.qcow2"
    with raw.open("wb") as file:
        file.truncate(size)
        for index, data in listed.disk.items():
            file.seek(index * listed.geometry.cluster_size)
            file.write(data)
    with image.open("wb") as file:
        for block in forward_stream(listed.geometry, listed, buffer_size):
            file.write(block)
    return raw, image


def assert_right(raw: pathlib.Path, image: pathlib.Path) -> None:
    check = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", image], check=False, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, image]
    assert subprocess.run(compare, check=False, stdout=subprocess.DEVNULL).returncode == 0


FACTORS = st.sampled_from((0.0, 0.01, 0.3, 0.5, 0.9, 1.0, 1.02, 1.3, 3.0, 5.0))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    bits=st.sampled_from((18, 19, 21)),
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=60),
    codec=st.sampled_from(("zstd", "zlib", "none")),
    first=FACTORS,
    second=FACTORS,
    stalls=st.sampled_from((1, 2, 7)),
    buffer_size=st.sampled_from((0, 1, 100_000, 600_000, 3_000_000, 64 << 20)),
    last=st.sampled_from((512, 4096, 262144 - 512, 262144)),
    seed=st.randoms(use_true_random=False),
)
def test_any_clusters_with_any_two_estimates_make_a_right_image(
    bits, kinds, codec, first, second, stalls, buffer_size, last, seed
) -> None:  # type: ignore[no-untyped-def]
    kinds = kinds[: 60 >> max(0, bits - 19)]  # as many bytes, at most, whatever the cluster size
    cluster = 1 << bits
    size = (len(kinds) - 1) * cluster + last
    geometry = Geometry(size, bits, codec)
    disk = {
        index: content(kind, index, min(cluster, size - index * cluster))
        for index, (kind, used) in enumerate(kinds)
        if used
    }
    order = list(disk)
    seed.shuffle(order)
    ordered = {index: disk[index] for index in order}
    listed = ListedClusters(geometry, ordered, [first, second], stalls)
    with tempfile.TemporaryDirectory() as directory:
        assert_right(*write_both(pathlib.Path(directory), listed, buffer_size))


@pytest.mark.parametrize("first", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("second", [0.2, 1.0, 4.0])
def test_two_estimates_may_be_wrong_in_different_ways(
    tmp_path: pathlib.Path, first: float, second: float
) -> None:
    geometry = Geometry(1 << 30, 18, "zstd")
    disk = {n: content(KINDS[n % 4], n, 262144) for n in range(200)}
    listed = ListedClusters(geometry, disk, [first, second])
    raw, image = write_both(tmp_path, listed, 1_000_000)
    assert listed.asked == (2 if first <= 1 else 1), "if nothing is left, no second is made"
    has_no_room = listed.asked == 2 and second < 1
    assert bool(listed.plainly) == has_no_room
    assert_right(raw, image)


def test_what_is_held_leaves_while_the_disk_stalls() -> None:
    @dataclass
    class Stalled(ListedClusters):
        """Gives 40 clusters, and stalls: who asks for more, has sent what he has."""

        sent: int = 0
        waits: int = 0

        def is_ready(self) -> bool:
            return self.taken < 40 or self.taken == len(self.order)

        def take(self) -> Cluster | None:
            if not self.is_ready():
                self.waits += 1
                assert self.sent > 40 * 262144 or self.taken > 150
            return super().take()

    geometry = Geometry(1 << 30, 18, "zstd")
    disk = {n: content("noise", n, 262144) for n in range(200)}
    listed = Stalled(geometry, disk, [1.0])
    for block in forward_stream(geometry, listed, 30 * 262144):
        listed.sent += len(block)
    assert listed.waits > 100


@dataclass
class DrawnClusters:
    """Clusters of given sizes, with nothing in them: for images that no test could write."""

    sizes: Sequence[int]
    cluster_size: int
    taken: int = 0
    measured: int = 0

    def take(self) -> Cluster | None:
        if self.taken == len(self.sizes):
            return None
        self.taken += 1
        return Cluster(self.taken - 1, _Length(self.sizes[self.taken - 1]))  # type: ignore[arg-type]

    def is_ready(self) -> bool:
        return True

    def left(self) -> range:
        return range(self.taken, len(self.sizes))

    def estimate(self) -> Estimate:
        return estimate(self.left(), self._measure, self.cluster_size, len(self.sizes) // 200)

    def _measure(self, indexes: Sequence[int]) -> list[int]:
        self.measured += len(indexes)
        return [self.sizes[index] for index in indexes]

    def rest(self) -> range:
        left = self.left()
        self.taken = len(self.sizes)
        return left

    def plain(self, index: int) -> "_Length":
        return _Length(self.cluster_size)


class _Length(int):
    """The length of bytes that are not there."""

    def __len__(self) -> int:
        return int(self)

    def __bool__(self) -> bool:
        return int(self) > 0

    def ljust(self, length: int, _fill: bytes) -> "_Length":
        return _Length(max(int(self), length))


def test_more_clusters_than_a_refcount_counts_begin_in_different_ones(
    tmp_path: pathlib.Path,
) -> None:
    @dataclass
    class Tiny(DrawnClusters):
        """Clusters of three bytes, as no codec makes them; 87381 of them fit into one."""

        def take(self) -> Cluster | None:
            taken = super().take()
            return taken and Cluster(taken.index, b"abc")

    image = tmp_path / "image"
    geometry = Geometry(70_000 << 18, 18, "zstd")
    for buffer_size in (1000, 64 << 20):  # before the second tables, and behind them
        with image.open("wb") as file:
            for block in forward_stream(geometry, Tiny([3] * 70_000, 1 << 18), buffer_size):
                file.write(block)
        check = subprocess.run(
            ["qemu-img", "check", "-f", "qcow2", image], check=False, capture_output=True, text=True
        )
        assert check.returncode == 0, check.stdout + check.stderr


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.97, 1.0, 1.1, 3.0])
@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_an_image_of_several_l2_tables_is_right(
    tmp_path: pathlib.Path, factor: float, codec: str
) -> None:
    # an L2 table of clusters of 256 KiB describes 8 GiB
    geometry = Geometry(40 << 30, 18, codec)
    indexes = [n * 997 % geometry.clusters for n in range(160)]
    disk = {n: content(KINDS[n % 4], n, 262144) for n in dict.fromkeys(indexes)}
    listed = ListedClusters(geometry, disk, [factor])
    assert_right(*write_both(tmp_path, listed, 500_000))


def test_a_small_image_is_as_small_as_it_can_be(tmp_path: pathlib.Path) -> None:
    geometry = Geometry(1 << 30, 18, "zstd")
    listed = ListedClusters(geometry, {n: content("noise", n, 262144) for n in range(8)}, [1.0])
    _raw, image = write_both(tmp_path, listed, 64 << 20)
    # header, L1, refcount table, one L2 table, one refcount block, and the clusters
    assert image.stat().st_size <= (5 + 8 + 1) * 262144


def test_zeros_are_never_sent_in_full(tmp_path: pathlib.Path) -> None:
    geometry = Geometry(1 << 30, 18, "zstd")
    disk = {n: content("zero" if n % 2 else "noise", n, 262144) for n in range(60)}
    listed = ListedClusters(geometry, disk, [0.3])
    raw, image = write_both(tmp_path, listed, 0)
    assert listed.plainly  # some had to be sent plain
    assert image.stat().st_size < (30 + 12) * 262144
    assert_right(raw, image)


TB = 10**12
# A kind of data: how much of the disk, and what is left of a cluster: as little, as much.
KINDS_OF_DATA = st.tuples(st.integers(1, 20), st.floats(0.001, 1.0), st.floats(0.001, 1.0))


def drawn_sizes(
    count: int, size: int, kinds: Sequence[tuple[int, float, float]], order: str, seed: int
) -> list[int]:
    """Return the compressed sizes of clusters: of data mixed, one after the other, or in runs."""
    chance = random.Random(seed)
    shares = [share for share, _least, _most in kinds]
    pools = [[int(size * chance.uniform(*between)) for _ in range(999)] for _, *between in kinds]
    if order == "one after the other":
        lengths = [count * share // sum(shares) for share in shares]
        return [
            one for pool, k in zip(pools, lengths, strict=True) for one in chance.choices(pool, k=k)
        ]
    runs = count if order == "mixed" else 300
    return [
        one for pool in chance.choices(pools, shares, k=runs)
        for one in chance.choices(pool, k=count // runs)
    ]  # fmt: skip


@settings(max_examples=3, deadline=None)
@given(
    kinds=st.lists(KINDS_OF_DATA, min_size=1, max_size=4),
    order=st.sampled_from(("mixed", "in runs", "one after the other")),
    seed=st.integers(0, 1000),
)
@example([(1, 0.001, 0.58)], "mixed", 1)
@example([(19, 0.01, 0.1), (1, 1.0, 1.0)], "mixed", 2)
@example([(3, 1.0, 1.0), (7, 0.05, 0.05)], "one after the other", 3)
@example([(7, 0.05, 0.05), (3, 1.0, 1.0)], "one after the other", 4)
def test_a_terabyte_in_use_is_sent_with_little_more_than_its_compressed_size(
    kinds: Sequence[tuple[int, float, float]], order: str, seed: int
) -> None:
    geometry = Geometry.for_disk(4 * TB, "zstd")
    size = geometry.cluster_size
    drawn = DrawnClusters(drawn_sizes(TB // size, size, kinds, order, seed), size)
    compressed = sum(drawn.sizes)
    assume(compressed > 0.1 * TB)  # of less, an error of the estimate is nothing beside the disk
    sent = sum(map(len, forward_stream(geometry, drawn, Budget.for_machine().waiting)))
    assert sent <= 1.05 * compressed
    assert drawn.measured <= 0.01 * len(drawn.sizes)


@pytest.mark.parametrize("count", [126_000, 128_900, 130_900, 131_060, 131_500])
def test_an_image_that_ends_near_the_end_of_a_refcount_block_is_laid_out(count: int) -> None:
    # a refcount block of clusters of 256 KiB describes 32 GiB; incompressible, so a bit longer
    drawn = DrawnClusters([262144 + 20] * count, 262144)
    geometry = Geometry(1 << 40, 18, "zstd")
    sent = sum(len(block) for block in forward_stream(geometry, drawn, 64 << 20))
    assert count * 262144 < sent < 1.01 * count * 262144


def test_the_cluster_size_grows_with_the_disk() -> None:
    sizes = [Geometry.for_disk(n << 38, "zstd").cluster_size for n in (1, 2, 4, 8, 16, 64)]
    assert [size // 1024 for size in sizes] == [256, 256, 512, 1024, 2048, 2048]


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_blocks_hold_the_same_bytes(pieces: list[bytes], size: int) -> None:
    blocks = list(in_blocks(pieces, size))
    assert b"".join(blocks) == b"".join(pieces)
    assert all(0 < len(block) <= size for block in blocks)
