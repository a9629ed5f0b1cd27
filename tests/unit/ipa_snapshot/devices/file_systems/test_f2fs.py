# SPDX-License-Identifier: Apache-2.0
"""Superblocks and flags of F2FS are understood, or refused: nothing between."""

import struct
import zlib

import pytest

from ipa_snapshot.devices.file_systems import f2fs_checkpoint
from ipa_snapshot.devices.file_systems.base import NotUnderstood


def _superblock(*changes: tuple[int, str, int]) -> bytes:
    """Return one with a checksum; ``changes`` are (place, form, value)."""
    block = bytearray(3072)
    struct.pack_into("<IHHIIII", block, 0, 0xF2F52010, 1, 16, 9, 3, 12, 9)
    struct.pack_into("<IQ", block, 32, 3068, 100 * 512 + 512)
    struct.pack_into("<6I", block, 48, 92, 2, 2, 4, 1, 83)
    struct.pack_into("<6I", block, 72, 512, 512, 1536, 2560, 4608, 5120)
    struct.pack_into("<I", block, 2180, 0x800)
    for place, form, value in changes:
        struct.pack_into(form, block, place, value)
    checksum = zlib.crc32(block[:3068], 0xF2F52010 ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    struct.pack_into("<I", block, 3068, checksum)
    return bytes(block)


def test_a_superblock_is_read() -> None:
    block = _superblock()
    assert f2fs_checkpoint.read_superblocks(block, block) == f2fs_checkpoint.Layout(
        checkpoints=512, payload=0, sit=1536, sit_segments=2, main=5120, main_segments=83
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((0, "<I", 1), "no superblock"),
        ((16, "<I", 14), "other sizes"),
        ((20, "<I", 10), "other sizes"),
        ((32, "<I", 100), "checksum"),
        ((36, "<Q", 5120 + 83 * 512 - 1), "contradicts"),
        ((68, "<I", 0), "contradicts"),
        ((52, "<I", 3), "do not follow"),
        ((92, "<I", 5121), "do not follow"),
        ((76, "<I", 1024), "do not follow"),
        ((1664, "<I", 513), "contradicts"),
        ((2180, "<I", 0x2), r"unknown features \(feature 0x2\)"),
        ((2180, "<I", 0x4000), "unknown features"),
        ((2180, "<I", 0x8000), "unknown features"),
        ((2180, "<I", 0x10000), "unknown features"),
        ((2201, "<B", ord("/")), "several devices"),
        ((2762, "<B", 1), "errors"),
        ((2809, "<B", 1), "errors"),
    ],
)
def test_a_superblock_that_is_not_understood_is_refused(
    change: tuple[int, str, int], reason: str
) -> None:
    block = _superblock(change)
    with pytest.raises(NotUnderstood, match=reason):
        f2fs_checkpoint.read_superblocks(block, block)


def test_superblocks_that_differ_or_are_damaged_are_refused() -> None:
    block = _superblock()
    damaged = block[:1000] + b"x" + block[1001:]
    with pytest.raises(NotUnderstood, match="differ"):
        f2fs_checkpoint.read_superblocks(block, damaged)
    with pytest.raises(NotUnderstood, match="checksum"):
        f2fs_checkpoint.read_superblocks(damaged, damaged)


@pytest.mark.parametrize("flags", [0x1, 0x5, 0x45, 0x185, 0x2C5, 0x485])
def test_the_flags_of_an_unmount_are_understood(flags: int) -> None:
    f2fs_checkpoint.check_flags(flags)


@pytest.mark.parametrize(
    "flags",
    [0, 0x4, 0x3, 0x9, 0x11, 0x21, 0x801, 0x1001, 0x2001, 0x4001, 0x8001, 0x80000001],
)
def test_any_other_flag_is_refused(flags: int) -> None:
    with pytest.raises(NotUnderstood, match="not unmounted, or had errors"):
        f2fs_checkpoint.check_flags(flags)
