# SPDX-License-Identifier: Apache-2.0
"""The used map of NTFS and F2FS: as in test_used_map, and only of volumes that are clean.

ntfs-3g mounts NTFS by FUSE. Not every kernel has F2FS: sload.f2fs fills it, and dump.f2fs reads it.
"""

import hashlib
import os
import random
import signal
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems import ntfs_records
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.devices.used_map import map_disk
from tests.functional import flips
from tests.functional.maps import map_of, only
from tests.lab import disks, partclone
from tests.lab.file_systems import JUNK, MIB, copy, fill, has_junk, make_file

SIZE = 300 * MIB
NTFS = {
    "default": (512, 4096),
    "smallest clusters": (512, 512),
    "1k clusters": (512, 1024),
    "largest clusters": (512, 65536),
    "4k sectors": (4096, 4096),
    "4k sectors, large clusters": (4096, 65536),
}


def mkfs_ntfs(path: Path, sector: int = 512, cluster: int = 4096, size: int = SIZE) -> Path:
    make_file(path, size)
    disks.run("mkfs.ntfs", "-F", "-Q", "-q", "-s", str(sector), "-c", str(cluster), path)
    return path


def digests(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): os.readlink(path) if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a directory"
        for path in top.rglob("*")
    }  # fmt: skip


def ntfs_files(path: Path) -> dict[str, str]:
    with (
        disks.LoopDevice(path, read_only=True) as loop,
        disks.mounted(loop.path, "ntfs-3g", "ro") as top,
    ):
        return digests(top)


def is_whole(path: Path) -> str:
    """See that it is copied whole, and return why."""
    found = map_of(path)
    assert found.extents == Extents([(0, path.stat().st_size)])
    assert only(found).used == path.stat().st_size
    return found.warnings[0]


@pytest.mark.parametrize("name", NTFS)
def test_of_an_ntfs_only_what_it_uses_is_in_the_map(name: str, tmp_path: Path) -> None:
    sector, cluster = NTFS[name]
    original = mkfs_ntfs(tmp_path / "disk.raw", sector, cluster)
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ntfs-3g", "rw") as top:
        fill(top)
    found = map_of(original)
    part = only(found)
    assert (part.fs, part.journal, found.warnings) == ("ntfs", "clean", ())
    assert part.used < 40 * MIB
    end = (SIZE - sector) // cluster * cluster
    assert found.unmapped == Extents([(end, SIZE - end)]), "with the copy of the boot sector"
    assert found.extents == partclone.used("ntfs", original).union(found.unmapped)
    target = copy(original, found.extents, tmp_path / "copy.raw", SIZE)
    disks.run("ntfsresize", "--info", target)
    disks.run("ntfsfix", "--no-action", target)
    assert ntfs_files(target) == ntfs_files(original)
    assert has_junk(original)
    assert not has_junk(target)


def test_of_an_ntfs_in_pieces_every_file_is_in_the_map(tmp_path: Path) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw", cluster=512, size=60 * MIB)
    numbers = random.Random(4)
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ntfs-3g", "rw") as top:
        for index in range(1500):
            (top / f"a file among many others {index}").write_bytes(numbers.randbytes(2000))
        for index in range(0, 1500, 2):
            (top / f"a file among many others {index}").unlink()
        with (top / "in pieces").open("wb") as file:
            for _ in range(300):
                file.write(numbers.randbytes(4096))
    found = map_of(original)
    assert len(found.extents) > 50
    assert found.warnings == ()
    target = copy(original, found.extents, tmp_path / "copy.raw", 60 * MIB)
    disks.run("ntfsresize", "--info", target)
    assert ntfs_files(target) == ntfs_files(original)


def test_an_ntfs_that_is_to_be_checked_is_copied_whole(tmp_path: Path) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw")
    with disks.LoopDevice(original) as loop:
        disks.run("ntfsfix", loop.path)  # it leaves the rest to chkdsk, and says so in the volume
    assert "it was not unmounted, or is to be checked (flags 0x1)" in is_whole(original)


def test_an_ntfs_whose_bitmap_was_not_written_is_copied_whole(tmp_path: Path) -> None:
    """ntfs-3g has no journal, and sets no flag: a power cut may lose any of its writes."""
    original = mkfs_ntfs(tmp_path / "disk.raw")
    bitmap = _stream(original, 6)
    before = _content(original, bitmap)
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ntfs-3g", "rw") as top:
        (top / "file").write_bytes(os.urandom(MIB))
    assert map_of(original).warnings == ()
    _write(original, bitmap, before)
    assert "ntfsresize failed" in is_whole(original)


def test_of_an_ntfs_whose_driver_was_killed_nothing_is_lost(tmp_path: Path) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw")
    where = tmp_path / "top"
    where.mkdir()
    with disks.LoopDevice(original) as loop:
        driver = subprocess.Popen(["ntfs-3g", "-o", "no_detach", loop.path, where])
        try:
            while not os.path.ismount(where):
                assert driver.poll() is None
            for index in range(200):
                (where / str(index)).write_bytes(os.urandom(50_000))
                if index % 3 == 0:
                    (where / str(index // 2)).unlink(missing_ok=True)
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            disks.run("umount", "--lazy", where)
    found = map_of(original)
    target = copy(original, found.extents, tmp_path / "copy.raw", SIZE)
    files = ntfs_files(original)
    assert len(files) > 50
    assert ntfs_files(target) == files


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.parametrize(
    ("begin", "is_read", "probed"),
    [(b"hibr", False, 14), (b"HIBR", False, 14), (b"RSTR", False, 0), (b"wake", True, 0),
     (b"\0\0\0\0", True, 0)],
)  # fmt: skip
def test_an_ntfs_with_a_hibernated_windows_is_copied_whole(
    begin: bytes, is_read: bool, probed: int, others: int, tmp_path: Path
) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw")
    with disks.LoopDevice(original) as loop:
        with disks.mounted(loop.path, "ntfs-3g", "rw") as top:
            for index in range(others):
                (top / f"a name that makes a large directory {index}").touch()
            (top / "hiberfil.sys").write_bytes(begin + bytes(MIB))
        done = subprocess.run(["ntfs-3g.probe", "--readwrite", loop.path], check=False)
    assert done.returncode == probed
    if is_read:
        assert map_of(original).warnings == ()
    else:
        assert "a hibernated Windows" in is_whole(original)


def test_an_ntfs_with_a_hibernation_file_that_is_too_small_is_copied_whole(tmp_path: Path) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw")
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ntfs-3g", "rw") as top:
        (top / "HiberFil.SYS").write_bytes(b"\0" * 100)
    is_whole(original)


def restart_page(flags: int, in_use: int, version: tuple[int, int], number: int) -> bytes:
    """Return a page as Windows writes it to the beginning of its log."""
    log_size = SIZE_OF_LOG
    bits = 67 - log_size.bit_length()
    page = bytearray(4096)
    struct.pack_into("<4sHHqIIHhh", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, *version[::-1])
    struct.pack_into("<qHHHHIHHqIHH", page, 48, number, 1, 0xFFFF if in_use == 0 else 0, in_use,
                     flags, bits, 224, 64, log_size, 0, 48, 64)  # fmt: skip
    struct.pack_into("<qqHHH6xI8s", page, 112, number, number, 0xFFFF, 0xFFFF, 0, 8,
                     "NTFS".encode("utf-16-le"))  # fmt: skip
    struct.pack_into("<H", page, 30, 9)
    for part in range(1, 9):
        page[30 + 2 * part : 32 + 2 * part] = page[part * 512 - 2 : part * 512]
        struct.pack_into("<H", page, part * 512 - 2, 9)
    return bytes(page)


SIZE_OF_LOG = 2 * MIB
LOGS = {
    "clean": ([(2, 0, (1, 1), 7), (2, 0, (1, 1), 7)], True),
    "no client": ([(0, 0xFFFF, (1, 1), 7), (0, 0xFFFF, (1, 1), 7)], True),
    "in use": ([(0, 0, (1, 1), 7), (0, 0, (1, 1), 7)], False),
    "in use since": ([(2, 0, (1, 1), 7), (0, 0, (1, 1), 8)], False),
    "clean since": ([(0, 0, (1, 1), 7), (2, 0, (1, 1), 8)], True),
    "fast start-up": ([(2, 0, (2, 0), 7), (2, 0, (2, 0), 7)], False),
    "unknown version": ([(2, 0, (1, 2), 7), (2, 0, (1, 2), 7)], False),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_log_of_an_ntfs_is_judged_as_ntfs_3g_does(name: str, tmp_path: Path) -> None:
    pages, is_clean = LOGS[name]
    original = mkfs_ntfs(tmp_path / "disk.raw")
    log = _stream(original, 2)
    content = b"".join(restart_page(*page) for page in pages)
    _write(original, log, content + b"\xff" * (log.size - len(content)))
    with disks.LoopDevice(original) as loop:
        probed = subprocess.run(
            ["ntfs-3g.probe", "--readwrite", loop.path], check=False, capture_output=True
        )
    assert (probed.returncode == 0) == is_clean, probed.stderr
    if is_clean:
        assert only(map_of(original)).used_source == "NTFS: $Bitmap"
    else:
        assert "log" in is_whole(original)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(0x20, "a record that goes on in others"),
     (0x100, "a root directory whose blocks are not where its record says")],
    ids=["an attribute list", "elsewhere"],
)  # fmt: skip
def test_an_ntfs_whose_root_directory_goes_on_in_other_records_is_copied_whole(
    kind: int, reason: str, tmp_path: Path
) -> None:
    """Its index root alone names no hiberfil.sys."""
    original = mkfs_ntfs(tmp_path / "disk.raw")
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ntfs-3g", "rw") as top:
        for index in range(300):
            (top / f"a name that makes a large directory {index}").touch()
        (top / "hiberfil.sys").write_bytes(b"hibr" + bytes(MIB))
    log = _stream(original, 2)
    pages = restart_page(2, 0, (1, 1), 7) * 2  # a clean log, so that ntfsresize is not asked
    _write(original, log, pages + b"\xff" * (log.size - len(pages)))
    assert "a hibernated Windows" in is_whole(original)
    with original.open("r+b") as disk:
        boot = ntfs_records.read_boot_sector(disk.read(512))
        start = boot.mft * boot.cluster + 5 * boot.record
        record = os.pread(disk.fileno(), boot.record, start)
        (place,) = struct.unpack_from("<H", record, 20)
        while struct.unpack_from("<I", record, place)[0] != ntfs_records.INDEX_ALLOCATION:
            place += struct.unpack_from("<I", record, place + 4)[0]
        os.pwrite(disk.fileno(), struct.pack("<I", kind), start + place)
    assert reason in is_whole(original)


def test_an_ntfs_whose_log_is_empty_only_at_its_beginning_is_copied_whole(tmp_path: Path) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw")
    log = _stream(original, 2)
    _write(original, log, b"\xff" * (log.size - 1) + b"\0")
    assert "RSTR" in is_whole(original)


def _stream(path: Path, number: int) -> ntfs_records.Stream:
    """Return where the file of an MFT record lies; its descriptor is closed."""
    with path.open("rb") as disk:
        boot = ntfs_records.read_boot_sector(disk.read(512))
        disk.seek(boot.mft * boot.cluster + number * boot.record)
        return ntfs_records.read_record(-1, boot, disk.read(boot.record)).stream(ntfs_records.DATA)


def _content(path: Path, stream: ntfs_records.Stream) -> bytes:
    with path.open("rb") as disk:
        return b"".join(os.pread(disk.fileno(), size, start) for start, size in stream.runs)


def _write(path: Path, stream: ntfs_records.Stream, content: bytes) -> None:
    with path.open("r+b") as disk:
        for start, size in stream.runs:
            os.pwrite(disk.fileno(), content[:size], start)
            content = content[size:]


F2FS = {
    "default": [],
    "large node bitmap": ["-i"],
    "features": ["-O", "extra_attr,inode_checksum,sb_checksum,lost_found,quota,compression"],
    "sections of four segments": ["-s", "4"],
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make files to be loaded; dump.f2fs gives them back by their names alone."""
    top = tmp_path_factory.mktemp("tree")
    numbers = random.Random(6)
    for index in range(60):
        (top / f"d{index % 3}").mkdir(exist_ok=True)
        size = numbers.choice([90, 5000, 300_000])
        (top / f"d{index % 3}" / f"file-{index}").write_bytes(numbers.randbytes(size))
    (top / "large").write_bytes(numbers.randbytes(9 * MIB))
    return top


def mkfs_f2fs(path: Path, tree: Path, options: list[str], junk: bytes = b"") -> Path:
    """Make one on a disk that is full of junk, and fill it; -t 0: without discards."""
    make_file(path, SIZE)
    if junk:
        path.write_bytes((junk * (SIZE // len(junk) + 1))[:SIZE])
    disks.run("mkfs.f2fs", "-f", "-t", "0", *options, path)
    disks.run("sload.f2fs", "-f", tree, path)
    return path


def f2fs_files(path: Path, where: Path) -> dict[str, str]:
    for number in range(4, 130):
        subprocess.run(
            ["dump.f2fs", "-i", f"{number:x}", path], cwd=where, input=b"y\n", check=False,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return digests(where / "lost_found")


@pytest.mark.parametrize("name", F2FS)
def test_of_an_f2fs_only_what_it_uses_is_in_the_map(name: str, tree: Path, tmp_path: Path) -> None:
    original = mkfs_f2fs(tmp_path / "disk.raw", tree, F2FS[name], JUNK)
    _prove_f2fs(original, tree, tmp_path)
    # its blocks go elsewhere, and stay where they were as well
    first = block_of_large(original, tree)
    disks.run("defrag.f2fs", "-s", str(first), "-l", "512", "-t", "50000", original)
    _prove_f2fs(original, tree, tmp_path)


def test_the_newest_segments_of_an_f2fs_are_known_by_its_journal_alone(tmp_path: Path) -> None:
    original = make_file(tmp_path / "disk.raw", SIZE)
    disks.run("mkfs.f2fs", "-f", "-t", "0", original)
    with original.open("rb") as disk:
        superblock = disk.read(4096)
    sit, nat, _ssa, main = struct.unpack_from("<4I", superblock, 1024 + 80)
    found = map_of(original)
    assert found.warnings == ()
    assert found.extents.end > main * 4096, "the root directory"
    with original.open("r+b") as disk:
        assert not any(os.pread(disk.fileno(), (nat - sit) * 4096, sit * 4096))


def block_of_large(path: Path, tree: Path) -> int:
    """Return the block where the large file has a MiB that no other file has."""
    wanted = (tree / "large").read_bytes()[4 * MIB : 4 * MIB + 4096]
    with path.open("rb") as disk:
        for block in range(SIZE // 4096):
            if disk.read(4096) == wanted:
                return block
    raise AssertionError("the large file is not there")


def _prove_f2fs(original: Path, tree: Path, tmp_path: Path) -> None:
    found = map_of(original)
    assert (only(found).journal, found.warnings) == ("clean", ())
    assert only(found).used < 100 * MIB
    target = copy(original, found.extents, tmp_path / "copy.raw", SIZE)
    said = disks.run("fsck.f2fs", "-f", "--dry-run", target)
    assert "[Fail]" not in said
    assert "[FSCK] other corrupted bugs                           [Ok..]" in said
    files = {path.name: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    # dump.f2fs 1.15 does not give back what is so small that it lies in an inode
    content = target.read_bytes()
    assert all(small in content for small in files.values() if len(small) < 1000)
    with tempfile.TemporaryDirectory(dir=tmp_path) as where:
        dumped = f2fs_files(target, Path(where))
    large = {name: words for name, words in files.items() if len(words) > 4096}
    assert {name: dumped.get(name) for name in large} == {
        name: hashlib.sha256(words).hexdigest() for name, words in large.items()
    }
    assert has_junk(original)
    assert blocks_of_junk(target, found.unmapped) <= 1, "the block that recovery looks at"
    target.unlink()


def blocks_of_junk(path: Path, behind: Extents) -> int:
    """Count the blocks that are junk to their end, in what files may use.

    In front of it areas of metadata are copied as they are, and so is what lies ``behind``. The
    last block of a file has what was there before: sload.f2fs 1.15 does not clear it.
    """
    content, end = path.read_bytes(), SIZE - behind.total
    main = struct.unpack_from("<I", content, 1024 + 92)[0]
    junk = (JUNK * (4096 // len(JUNK) + 3))[: 4096 + len(JUNK)]
    return sum(
        content[at : at + 4096] == junk[at % len(JUNK) :][:4096]
        for at in range(main * 4096, end, 4096)
    )


def _with_checkpoint(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change both blocks of both checkpoints, and mend their checksums."""
    with path.open("r+b") as disk:
        superblock = os.pread(disk.fileno(), 4096, 0)
        (start,) = struct.unpack_from("<I", superblock, 1024 + 76)
        for pack in (start, start + 512):
            (blocks,) = struct.unpack_from("<I", os.pread(disk.fileno(), 4096, pack * 4096), 136)
            for block in (pack, pack + blocks - 1):
                content = bytearray(os.pread(disk.fileno(), 4096, block * 4096))
                change(content)
                checksum = zlib.crc32(content[:4092], 0xF2F52010 ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
                struct.pack_into("<I", content, 4092, checksum)
                os.pwrite(disk.fileno(), content, block * 4096)


def _set(form: str, place: int, change: Callable[[int], int]) -> Callable[[bytearray], None]:
    def apply(content: bytearray) -> None:
        struct.pack_into(form, content, place, change(struct.unpack_from(form, content, place)[0]))

    return apply


@pytest.mark.parametrize(
    ("form", "place", "change", "reason"),
    [
        ("<I", 132, lambda flags: flags & ~0x1, "not unmounted, or had errors"),
        ("<I", 132, lambda flags: flags | 0x2, "not unmounted, or had errors"),
        ("<I", 132, lambda flags: flags | 0x10, "not unmounted, or had errors"),
        ("<I", 132, lambda flags: flags | 0x8000, "not unmounted, or had errors"),
        ("<I", 144, lambda nodes: nodes + 1, "its checkpoint counts"),
        ("<Q", 16, lambda _valid: 5, "its checkpoint counts"),
        ("<I", 156, lambda size: size * 2, "a bitmap of"),
        ("<I", 40, lambda _segment: 10**6, "contradicts itself"),
        ("<H", 70, lambda _offset: 512, "contradicts itself"),
    ],
)
def test_an_f2fs_whose_checkpoint_is_no_unmounts_is_copied_whole(
    form: str, place: int, change: Callable[[int], int], reason: str, tree: Path, tmp_path: Path
) -> None:
    original = mkfs_f2fs(tmp_path / "disk.raw", tree, [])
    _with_checkpoint(original, lambda content: None)
    assert map_of(original).warnings == ()
    _with_checkpoint(original, _set(form, place, change))
    assert reason in is_whole(original)


def test_an_f2fs_with_nodes_that_were_synced_since_is_copied_whole(
    tree: Path, tmp_path: Path
) -> None:
    original = mkfs_f2fs(tmp_path / "disk.raw", tree, [])
    with original.open("r+b") as disk:
        cp, main = struct.unpack_from("<I12xI", os.pread(disk.fileno(), 4096, 0), 1024 + 76)
        checkpoints = [os.pread(disk.fileno(), 4096, block * 4096) for block in (cp, cp + 512)]
        newest = max(checkpoints, key=lambda block: struct.unpack_from("<Q", block)[0])
        (version,), (segment,) = (
            struct.unpack_from("<Q", newest),
            struct.unpack_from("<I", newest, 40),
        )
        offset = struct.unpack_from("<H", newest, 70)[0]
        place = (main + segment * 512 + offset) * 4096
        node = bytes(4084) + struct.pack("<QI", version | 0x1234 << 32, 0)
        os.pwrite(disk.fileno(), node, place)
    assert "it has nodes to roll forward" in is_whole(original)


def test_an_f2fs_whose_second_superblock_differs_is_copied_whole(
    tree: Path, tmp_path: Path
) -> None:
    original = mkfs_f2fs(tmp_path / "disk.raw", tree, [])
    with original.open("r+b") as disk:
        disk.seek(4096 + 1024 + 2000)
        disk.write(b"x")
    assert "its superblocks differ" in is_whole(original)


def test_an_f2fs_on_two_devices_is_copied_whole(tmp_path: Path) -> None:
    one, two = (make_file(tmp_path / name, SIZE) for name in ("one", "two"))
    with disks.LoopDevice(two) as loop:
        disks.run("mkfs.f2fs", "-f", "-t", "0", "-c", loop.path, one)
    assert "it has several devices" in is_whole(one)


def _look_at_flipped(
    path: Path, kind: str, places: list[tuple[int, int]]
) -> Iterator[tuple[Extents, flips.Flips]]:
    campaign = flips.Campaign(kind, places)
    for bits in campaign:
        with flips.applied(path, bits), open_source(str(path)) as source:
            found = map_disk(source)
        campaign.keep(flips.outcome(found), bits)
        assert 0 < found.extents.end <= source.size, bits
        assert all(part.used <= part.size for part in found.partitions), bits
        yield found.extents, bits


def test_whatever_is_flipped_in_an_ntfs_no_used_cluster_is_skipped(tmp_path: Path) -> None:
    original = mkfs_ntfs(tmp_path / "disk.raw", size=20 * MIB)
    with disks.LoopDevice(original) as loop, disks.mounted(loop.path, "ntfs-3g", "rw") as top:
        for index in range(100):
            (top / f"a file among others {index}").write_bytes(os.urandom(10_000))
    known = map_of(original).extents
    mft = 4 * 4096
    bitmap, log = _stream(original, 6), _stream(original, 2)
    places = [(0, 84), (0, 512), *((mft + number * 1024, 512) for number in (0, 2, 3, 5, 6)),
              (mft, 7168), (bitmap.runs[0][0], 640), (log.runs[0][0], 4096)]  # fmt: skip
    for extents, bits in _look_at_flipped(original, "ntfs", places):
        assert extents.union(known) == extents, bits


def test_whatever_is_flipped_in_an_f2fs_no_used_block_is_skipped(
    tree: Path, tmp_path: Path
) -> None:
    original = mkfs_f2fs(tmp_path / "disk.raw", tree, [])
    known = map_of(original).extents
    with original.open("rb") as disk:
        cp, sit = struct.unpack_from("<II", disk.read(4096), 1024 + 76)
    places = [(1024, 200), (5120, 200), (1024, 3072), (cp * 4096, 200), (cp * 4096, 4096),
              ((cp + 512) * 4096, 4096), (sit * 4096, 4096), ((sit + 512) * 4096, 999)]  # fmt: skip
    for extents, bits in _look_at_flipped(original, "f2fs", places):
        assert extents.union(known) == extents, bits
