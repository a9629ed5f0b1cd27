# SPDX-License-Identifier: Apache-2.0
"""What the tools print is understood, or refused: nothing between."""

import struct

import pytest

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import btrfs, ext, fat, xfs
from ipa_snapshot.devices.file_systems.base import DirtyJournal, NotUnderstood, View
from tests.unit.ipa_snapshot.devices.file_systems import samples

MIB = 1024 * 1024
VIEW = View("/dev/loop0", 1000 * 4096)


def _ext(text: str, view: View = VIEW) -> list[tuple[int, int]]:
    found = ext.read_dumpe2fs(text.splitlines(), view)
    return [(start // 4096, length // 4096) for start, length in found.used]


def test_free_blocks_and_unused_inode_tables_are_not_used() -> None:
    # 99 inodes of 256 bytes fill 6 blocks of 4096; group 1 uses none of its 160.
    assert _ext(samples.DUMPE2FS) == [(0, 8), (24, 26), (601, 1), (900, 99)]


def test_with_clusters_the_last_of_a_range_is_free_as_a_whole() -> None:
    text = samples.DUMPE2FS.replace(
        "Block size:               4096",
        "Block size:               4096\nCluster size:             8192",
    )
    text = text.replace("550 free blocks", "275 free clusters").replace("50-599", "50-598")
    text = text.replace("300 free blocks", "150 free clusters")
    text = text.replace("600, 602-899, 999", "600, 602-898")
    assert _ext(text) == [(0, 8), (24, 26), (900, 100)]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("flex_bg", "FEATURE_C12", "unknown features FEATURE_C12"),
        ("flex_bg", "compression", "unknown features compression"),
        ("state:         clean", "state:         not clean", "state is 'not clean'"),
        ("state:         clean", "state:         clean with errors", "with errors"),
        ("Journal inode:", "Journal device:", "another device"),
        ("Journal start:            0", "Journal start:            7", "not empty"),
        ("Block count:              1000", "", "lacks"),
        ("Block count:              1000", "Block count:              999", "not in order"),
        ("Block size:               4096", "Block size:               0", "lacks"),
        ("Inode size:\t          256", "Inode size:\t          x", "lacks"),
        ("<not available>", "x\nBlock count:              9", "twice"),
        ("<not available>", "x\nGroup 0: (Blocks 0-599)", "lacks"),
        ("Free blocks: 50-599", "Free blocks: 50-598", "counts 550 .* lists 549"),
        ("Free blocks: 50-599", "", "counts 550 .* lists 0"),
        ("Free blocks: 50-599", "Free blocks: 700-1249", "not its own"),
        ("602-899", "599-896", "not its own"),
        ("csum 0x1b18", "csum 0x1b18 (EXPECTED 0xd070)", "wrong checksum"),
        ("Group 1: (Blocks 600-999)", "Group 2: (Blocks 600-999)", "not in order"),
        ("Group 1: (Blocks 600-999)", "Group 1: (Blocks 500-999)", "not in order"),
        ("99 unused inodes", "999 unused inodes", "more unused inodes"),
        ("Filesystem magic", "*** Run e2fsck now!\nFilesystem magic", "wrong checksums"),
        ("has_journal", "needs_recovery", "a journal that it has not"),
        ("has_journal", "has_journal needs_recovery fast_commit", "fast commits"),
    ],
)
def test_ext_that_is_not_understood_is_refused(old: str, new: str, reason: str) -> None:
    assert old in samples.DUMPE2FS
    with pytest.raises(NotUnderstood, match=reason):
        _ext(samples.DUMPE2FS.replace(old, new))


def test_a_dirty_ext_journal_is_told_with_its_size() -> None:
    with pytest.raises(DirtyJournal) as caught:
        _ext(samples.DUMPE2FS.replace("has_journal", "has_journal needs_recovery"))
    assert caught.value.log_size == 16 * 4096


def test_a_file_system_larger_than_its_partition_is_refused() -> None:
    with pytest.raises(NotUnderstood, match="its partition 4095999"):
        _ext(samples.DUMPE2FS, View("", 1000 * 4096 - 1))


def test_dumpe2fs_that_ends_early_is_refused() -> None:
    lines = samples.DUMPE2FS.splitlines()
    for count in range(len(lines) - 2):
        with pytest.raises(NotUnderstood):
            ext.read_dumpe2fs(lines[:count], VIEW)


def test_the_fields_of_an_xfs_superblock_are_read() -> None:
    fields = xfs.read_superblock(samples.XFS_SUPERBLOCK.splitlines())
    assert (fields["blocksize"], fields["versionnum"]) == (4096, 0xB4A5)
    assert "uuid" not in fields


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("versionnum = 0xb4a5", "versionnum = 0xb4a6", "version 6"),
        ("features_incompat = 0xb", "features_incompat = 0x1b", "incompatible 0x10"),
        ("features2 = 0x18a", "features2 = 0x58a", "features2 0x400"),
        ("rblocks = 0", "rblocks = 5", "realtime"),
        ("logstart = 65542", "logstart = 0", "log is on another"),
        ("(correct)", "(bad)", "checksum"),
        ("inprogress = 0", "inprogress = 1", "did not end"),
        ("agcount = 2", "agcount = 0", "0 allocation groups"),
        ("agcount = 2", "", "does not say agcount"),
        ("agcount = 2", "agcount = 2\nagcount = 2", "twice"),
    ],
)
def test_xfs_that_is_not_understood_is_refused(old: str, new: str, reason: str) -> None:
    assert old in samples.XFS_SUPERBLOCK
    text = samples.XFS_SUPERBLOCK.replace(old, new)
    with pytest.raises(NotUnderstood, match=reason):
        xfs._refuse_unknown(xfs.read_superblock(text.splitlines()))


def test_free_space_of_xfs_is_read_group_by_group() -> None:
    fields = xfs.read_superblock(samples.XFS_SUPERBLOCK.splitlines())
    free = xfs.read_free(samples.XFS_FREE.splitlines(), fields)
    assert list(free) == [(6, 1), (24, 70), (106, 2)]
    for wrong in ("2 6 1", "0 0 1", "0 90 11", "0 5 0"):
        with pytest.raises(NotUnderstood, match="no group has"):
            list(xfs.read_free([wrong], fields))


def test_counts_of_xfs_come_in_pairs() -> None:
    assert xfs.read_counts(["freeblks = 7", "flcount = 4", "noise"]) == [11]
    with pytest.raises(NotUnderstood):
        xfs.read_counts(["freeblks = 7"])


def test_every_copy_of_a_btrfs_extent_is_found() -> None:
    chunks = btrfs.read_chunks(samples.BTRFS_CHUNKS.splitlines())
    logical = Extents([(1004096, 8192)])
    assert list(btrfs.physical(logical, chunks)) == [
        (5004096, 4096), (6000000, 4096), (7000000, 4096),
    ]  # fmt: skip
    assert list(btrfs.within(logical, chunks)) == list(logical)
    for outside in ((999999, 1), (1016383, 2), (2000000, 1)):
        with pytest.raises(NotUnderstood, match="in no chunk"):
            list(btrfs.within([outside], chunks))


@pytest.mark.parametrize(
    ("old", "new"),
    [("DATA|single", "DATA|RAID5"), ("DATA|single", "ODD|single"),
     ("devid 1 offset 5", "devid 2 offset 5"),
     ("\t\t\tstripe 0 devid 1 offset 5000000\n", "")],
)  # fmt: skip
def test_chunks_that_are_not_understood_are_refused(old: str, new: str) -> None:
    assert old in samples.BTRFS_CHUNKS
    with pytest.raises(NotUnderstood):
        btrfs.read_chunks(samples.BTRFS_CHUNKS.replace(old, new).splitlines())


def test_extents_of_btrfs_have_their_length_or_that_of_a_node() -> None:
    lines = ["\titem 0 key (4096 EXTENT_ITEM 8192) itemoff 1 itemsize 53",
             "\titem 1 key (4096 BLOCK_GROUP_ITEM 99) itemoff 1 itemsize 24",
             "\titem 2 key (65536 METADATA_ITEM 1) itemoff 1 itemsize 33"]  # fmt: skip
    assert list(btrfs.read_extents(lines, 16384)) == [(4096, 8192), (65536, 16384)]


def _boot(**changed: int) -> bytes:
    """Return the boot sector of a FAT16 with 8192 clusters of 2048 bytes."""
    words = {"sector": 512, "per_cluster": 4, "reserved": 4, "tables": 2, "roots": 512,
             "total": 33000, "media": 0xF8, "per_table": 33, "dirty": 0, **changed}  # fmt: skip
    boot = bytearray(512)
    struct.pack_into(
        "<HBHBHHBH", boot, 11, words["sector"], words["per_cluster"], words["reserved"],
        words["tables"], words["roots"], words["total"], words["media"], words["per_table"],
    )  # fmt: skip
    boot[0x25] = words["dirty"]
    boot[510:] = b"\x55\xaa"
    return bytes(boot)


def test_a_fat_boot_sector_is_read() -> None:
    assert fat.read_boot_sector(_boot()) == fat.Volume(
        16, 33000 * 512, 4 * 512, 33 * 512, (4 + 66 + 32) * 512, 2048, 8224, 0xF8
    )


@pytest.mark.parametrize(
    "changed",
    [{"sector": 513}, {"sector": 0}, {"per_cluster": 3}, {"per_cluster": 0}, {"reserved": 0},
     {"tables": 3}, {"tables": 0}, {"total": 50}, {"per_table": 3}, {"dirty": 1}, {"per_table": 0},
     {"total": 102 + 4085 * 4}],
    ids=str,
)  # fmt: skip
def test_a_fat_boot_sector_that_is_not_understood_is_refused(changed: dict[str, int]) -> None:
    with pytest.raises(NotUnderstood):
        fat.read_boot_sector(_boot(**changed))
    with pytest.raises(NotUnderstood):
        fat.read_boot_sector(b"")


def test_entries_of_twelve_bits_are_unpacked() -> None:
    volume = fat.Volume(12, 0, 0, 6, 0, 512, 2, 0xF8)
    table = bytes([0xF8, 0xFF, 0xFF, 0x34, 0x12, 0x00])
    assert list(fat.read_table(volume, table)) == [0xFF8, 0xFFF, 0x234, 0x001]


def test_a_fat_that_windows_did_not_close_is_refused() -> None:
    volume = fat.Volume(16, 0, 0, 6, 0, 512, 1, 0xF8)
    assert list(fat.read_table(volume, struct.pack("<HHH", 0xFFF8, 0xFFFF, 0)))[2] == 0
    for wrong in ((0xFFF8, 0x7FFF), (0xFFF8, 0xBFFF), (0xFFF0, 0xFFFF)):
        with pytest.raises(NotUnderstood):
            fat.read_table(volume, struct.pack("<HHH", *wrong, 0))
