# SPDX-License-Identifier: Apache-2.0
"""A disk with bad sectors: refused, or taken with zeros in their place, and that is told.

The disk is a FUSE file of nbdkit's, which fails reads of the sectors that the test names.
"""

import contextlib
import pathlib
import random

import pytest

from tests.functional import commands
from tests.functional.conftest import identical
from tests.lab.fuse_disk import fuse_disk

SIZE = 24 << 20
BAD = (5 * 512, 9_000_000 // 4096 * 4096, (20 << 20) - 4096)
# for nbdkit's eval plugin: the offsets of BAD are unreadable, 4096 bytes each
_PREAD = """
for bad in %s; do
    if [ $(( $4 )) -lt $(( bad + 4096 )) ] && [ $(( $4 + $3 )) -gt $bad ]; then
        echo EIO the sector at $bad is bad >&2
        exit 1
    fi
done
dd if=%s iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none
"""


def bad_disk(
    content: pathlib.Path, directory: pathlib.Path
) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Show the content as a file of which three places cannot be read."""
    bad, size = " ".join(str(offset) for offset in BAD), content.stat().st_size
    pread = "pread=" + _PREAD % (bad, content)
    return fuse_disk(directory, size, "eval", "get_size=echo %d" % size, pread)


@pytest.fixture
def content(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "content"
    path.write_bytes(random.Random(4).randbytes(SIZE))
    return path


def take(disk: pathlib.Path, images: pathlib.Path, *options: str) -> commands.Outcome:
    images.mkdir(exist_ok=True)
    return commands.run(
        "ipa-snapshot", "stream", "file://%s" % images, "image", "--device", disk, "--json",
        *options,
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--format", "raw"), ("--writer", "dd")])
def test_bad_sectors_are_zeros_if_that_was_asked_for_and_are_told(
    content: pathlib.Path, tmp_path: pathlib.Path, options: tuple[str, ...]
) -> None:
    with bad_disk(content, tmp_path) as disk:
        outcome = take(disk, tmp_path / "images", "--bad-sectors", "zero", *options)
    assert outcome.code == 0, outcome.err
    lost = outcome.json["lost"]
    expected = bytearray(content.read_bytes())
    for start, length in lost["extents"]:
        expected[start : start + length] = bytes(length)
    assert [start // 4096 for start, _length in lost["extents"]] == [bad // 4096 for bad in BAD]
    assert lost["bytes"] == sum(length for _start, length in lost["extents"]) <= 4 * 4096
    assert "could not be read" in outcome.json["warnings"][-1]
    (tmp_path / "expected").write_bytes(expected)
    image = tmp_path / "images/image"
    assert identical(tmp_path / "expected", image, outcome.json["disk_format"])


def test_without_that_the_first_bad_sector_ends_the_snapshot(
    content: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with bad_disk(content, tmp_path) as disk:
        outcome = take(disk, tmp_path / "images")
    assert outcome.code == 1
    assert "ReadFailed" in outcome.error
    assert "cannot be read at offset" in outcome.error
    assert list((tmp_path / "images").iterdir()) == []


def test_a_writer_that_cannot_go_on_says_so(content: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with bad_disk(content, tmp_path) as disk:
        outcome = take(disk, tmp_path / "images", "--bad-sectors", "zero", "--writer", "nfs")
    assert outcome.code == 1
    assert "InvalidRequest: the writer nfs cannot go on past bad sectors" in outcome.error
