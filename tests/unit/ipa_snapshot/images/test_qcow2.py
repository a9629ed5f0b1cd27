# SPDX-License-Identifier: Apache-2.0
"""The estimated space holds what the real qemu-img makes, and is not much more."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa_snapshot.devices.source import open_source
from ipa_snapshot.images.qcow2 import choose_compression, needed_space
from snapshot_core import qemu_img
from snapshot_core.image_options import ImageOptions

MIB = 1024 * 1024
CLUSTER = 64 * 1024


def _every_other_cluster() -> Iterator[bytes]:
    for _ in range(8 * MIB // CLUSTER):
        yield os.urandom(CLUSTER) + bytes(CLUSTER)


def _one_byte_in_each_cluster() -> Iterator[bytes]:
    for _ in range(16 * MIB // CLUSTER):
        yield bytes(CLUSTER - 1) + b"x"


CONTENTS: dict[str, Callable[[], bytes]] = {
    "random": lambda: os.urandom(8 * MIB),
    "zeros": lambda: bytes(8 * MIB),
    "text": lambda: b"all work and no play " * (8 * MIB // 21) + bytes(8),
    "every other cluster": lambda: b"".join(_every_other_cluster()),
    "one byte in each cluster": lambda: b"".join(_one_byte_in_each_cluster()),
    "not a whole number of clusters": lambda: os.urandom(5 * MIB + 512),
    "one sector": lambda: os.urandom(512),
}


@pytest.mark.parametrize("compression", ["none", "zlib", "zstd"])
@pytest.mark.parametrize("content", CONTENTS)
def test_the_estimate_holds_what_qemu_img_makes(
    tmp_path: Path, content: str, compression: str
) -> None:
    disk, image = tmp_path / "disk.raw", tmp_path / "image.qcow2"
    data = CONTENTS[content]()
    disk.write_bytes(data + bytes(-len(data) % 512))
    told: list[int] = []
    with open_source(str(disk)) as source:
        estimate = needed_space(source, told.append)
    qemu_img.convert(disk, image, "qcow2", compression, lambda fraction: None)
    assert image.stat().st_size <= estimate
    assert told[-1] == source.size
    if compression == "none":
        assert estimate - image.stat().st_size <= 4 * MIB + CLUSTER


def test_for_a_large_disk_the_tables_are_counted(tmp_path: Path) -> None:
    disk, image = tmp_path / "disk.raw", tmp_path / "image.qcow2"
    disk.touch()
    os.truncate(disk, 1024 * MIB)
    with disk.open("r+b") as file:
        for at in range(0, 1024, 64):  # so that many an L2 table is needed
            file.seek(at * MIB)
            file.write(b"x")
    with open_source(str(disk)) as source:
        estimate = needed_space(source, lambda done: None)
    qemu_img.convert(disk, image, "qcow2", "none", lambda fraction: None)
    assert image.stat().st_size <= estimate


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ImageOptions(), "zstd"),
        (ImageOptions("qcow2", "zlib"), "zlib"),
        (ImageOptions("qcow2", "none"), "none"),
        (ImageOptions("raw", "auto"), "none"),
        (ImageOptions("raw", "zstd"), "none"),
    ],
)
def test_auto_is_zstd_and_a_raw_image_has_no_compression(
    options: ImageOptions, expected: str
) -> None:
    assert choose_compression(options) == expected
