# SPDX-License-Identifier: Apache-2.0
"""The forward layout: whatever the clusters and the estimates, the image is right."""

import hashlib
import pathlib
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipa_snapshot.images.forward import Cluster, Geometry, forward_stream, in_blocks

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


def compress(codec: str, data: bytes) -> bytes:
    if not any(data):
        return b""
    data = data.ljust(262144, b"\0")
    if codec == "none":
        return data
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data)
    packer = zlib.compressobj(1, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


@dataclass
class ListedClusters:
    """Clusters in memory, with estimates that are wrong by a factor."""

    geometry: Geometry
    disk: dict[int, bytes]
    factors: Sequence[float]
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
        return Cluster(index, compress(self.geometry.compression, self.disk[index]))

    def left(self) -> Sequence[int]:
        return self.order[self.taken :]

    def estimate(self) -> int:
        factor = self.factors[self.asked % len(self.factors)]
        self.asked += 1
        codec = self.geometry.compression
        return int(factor * sum(len(compress(codec, self.disk[index])) for index in self.left()))

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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=60),
    codec=st.sampled_from(("zstd", "zlib", "none")),
    factors=st.lists(
        st.sampled_from((0.0, 0.01, 0.5, 0.9, 1.0, 1.02, 1.3, 5.0)), min_size=1, max_size=2
    ),
    buffer_size=st.sampled_from((0, 1, 100_000, 600_000, 3_000_000, 64 << 20)),
    last=st.sampled_from((512, 4096, 262144 - 512, 262144)),
    seed=st.randoms(use_true_random=False),
)
def test_any_clusters_with_any_estimate_make_a_right_image(
    kinds, codec, factors, buffer_size, last, seed
) -> None:  # type: ignore[no-untyped-def]
    size = (len(kinds) - 1) * 262144 + last
    geometry = Geometry(size, 18, codec)
    disk = {
        index: content(kind, index, min(262144, size - index * 262144))
        for index, (kind, used) in enumerate(kinds)
        if used
    }
    order = list(disk)
    seed.shuffle(order)
    listed = ListedClusters(geometry, {index: disk[index] for index in order}, factors)
    with tempfile.TemporaryDirectory() as directory:
        assert_right(*write_both(pathlib.Path(directory), listed, buffer_size))


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


@dataclass
class DrawnClusters:
    """Clusters of drawn sizes, with nothing in them: for images that no test could write."""

    count: int
    ratio: float
    error: float
    spread: float
    taken: int = 0

    def size_of(self, index: int) -> int:
        drawn = hash((index, 7)) % 2000 / 1000 - 1
        return max(64, int(262144 * self.ratio * (1 + self.spread * drawn)))

    def take(self) -> Cluster | None:
        if self.taken == self.count:
            return None
        self.taken += 1
        return Cluster(self.taken - 1, _Length(self.size_of(self.taken - 1)))  # type: ignore[arg-type]

    def left(self) -> range:
        return range(self.taken, self.count)

    def estimate(self) -> int:
        return int((self.count - self.taken) * 262144 * self.ratio * self.error)

    def rest(self) -> range:
        left = self.left()
        self.taken = self.count
        return left

    def plain(self, index: int) -> "_Length":
        return _Length(262144)


class _Length(int):
    """The length of bytes that are not there."""

    def __len__(self) -> int:
        return int(self)

    def __bool__(self) -> bool:
        return int(self) > 0

    def ljust(self, length: int, _fill: bytes) -> "_Length":
        return _Length(max(int(self), length))


@pytest.mark.parametrize("error", [0.95, 0.98, 1.0, 1.02, 1.1])
def test_a_terabyte_in_use_is_sent_with_little_more_than_its_compressed_size(error: float) -> None:
    count = (1 << 40) // 262144 // 8  # an eighth of the clusters, and of the buffer
    drawn = DrawnClusters(count, 0.29, error, 0.8)
    compressed = sum(drawn.size_of(index) for index in range(count))
    geometry = Geometry(2 << 40, 18, "zstd")
    sent = sum(len(block) for block in forward_stream(geometry, drawn, (64 << 20) // 8))
    assert sent <= 1.05 * compressed


@pytest.mark.parametrize("count", [126_000, 128_900, 130_900, 131_060, 131_500])
def test_an_image_that_ends_near_the_end_of_a_refcount_block_is_laid_out(count: int) -> None:
    # a refcount block of clusters of 256 KiB describes 32 GiB
    drawn = DrawnClusters(count, 1.0, 1.0, 0)
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
