# SPDX-License-Identifier: Apache-2.0
"""Which compression ``auto`` takes, and that each of them is what it says."""

import pathlib
import random
import zlib

import pytest
import zstandard

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.images.compression import Costs, compressor

MIB = 1024 * 1024
# as they were measured: zstd-1 400 MB/s a core, sha512 578 MB/s
USUAL = Costs(1 / 400e6, 1 / 578e6, 0.3)


@pytest.mark.parametrize(
    ("link", "cores", "expected"),
    [(125e6, 2, "zstd"), (12e6, 1, "zstd"), (1250e6, 8, "zstd"), (1250e6, 1, "none"),
     (300e6, 16, "zstd")],
)  # fmt: skip
def test_zstd_is_taken_until_the_link_outruns_the_cores(
    link: float, cores: int, expected: str
) -> None:
    assert USUAL.quickest(link, cores) == expected


@pytest.mark.parametrize("cores", [1, 2, 4, 16])
def test_what_is_quickest_on_any_link_is_so_on_each(cores: int) -> None:
    if USUAL.on_any_link(cores):
        assert {USUAL.quickest(link, cores) for link in (1e6, 1e8, 1e12)} == {"zstd"}
    assert USUAL.on_any_link(cores) == (cores > 1)


def test_what_does_not_get_smaller_is_not_compressed_if_that_is_slower() -> None:
    noise = Costs(1 / 400e6, 1 / 578e6, 1.0)
    assert noise.quickest(1250e6, 1) == "none"
    assert noise.quickest(100e6, 4) == "zstd", "the wire limits either way"


def test_the_costs_are_those_of_this_disk(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(random.Random(1).randbytes(4 * MIB) + b"text " * MIB + bytes(4 * MIB))
    with open_source(str(disk)) as source:
        noise = Costs.measure(source, Extents([(0, 4 * MIB)]))
        text = Costs.measure(source, Extents([(4 * MIB + 1000, 4 * MIB)]))
        assert noise.ratio == pytest.approx(1, abs=0.01)
        assert text.ratio < 0.01
        assert 0 < noise.digest_s < 1e-6
        assert 0 < noise.compress_s < 1e-6
        assert noise.bytes_read == 256 * 1024, "of a small disk, one sample"
        assert Costs.measure(source, Extents([(10 * MIB, MIB)])).on_any_link(1), "only zeros"
        assert Costs.measure(source, Extents()) == Costs(0, 0, 0, 0)


@pytest.mark.parametrize("compression", ["none", "zlib", "zstd"])
def test_what_was_compressed_is_what_it_was(compression: str) -> None:
    content = random.Random(2).randbytes(MIB) + bytes(MIB)
    packed = compressor(compression)(content)
    if compression == "zlib":
        packed = zlib.decompressobj(-12).decompress(packed)
    elif compression == "zstd":
        packed = zstandard.ZstdDecompressor().decompress(packed, max_output_size=len(content))
    assert packed == content
