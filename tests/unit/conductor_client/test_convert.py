# SPDX-License-Identifier: Apache-2.0
"""The raw image of the writer dd becomes a qcow2 with the real qemu-img, and nothing stays."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conductor_client import errors
from conductor_client.convert import converted
from conductor_client.verified import VerifiedImage
from snapshot_core.progress import Meter, Progress
from tests.lab import disks
from tests.unit.memory_storage import MemoryStorage

MIB = 1024 * 1024


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def _raw(data: bytes, stored: bytes | None = None, block: int = MIB) -> VerifiedImage:
    storage = MemoryStorage({"raw": data if stored is None else stored}, block)
    return VerifiedImage(storage, "raw", len(data), hashlib.sha512(data).hexdigest())


@pytest.mark.parametrize(
    ("data", "block"),
    [
        (os.urandom(MIB) + bytes(3 * MIB), MIB),
        (bytes(3 * MIB) + os.urandom(MIB), MIB),
        (bytes(MIB) + b"x" * 512 + bytes(MIB), 100_000),
        (bytes(2 * MIB), MIB),
        (os.urandom(512), MIB),
    ],
    ids=["zeros behind", "zeros before", "odd blocks", "zeros", "a sector"],
)
def test_the_qcow2_is_the_raw_image(
    work_dir: Path, tmp_path: Path, data: bytes, block: int
) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image.qcow2"
    raw.write_bytes(data)
    with converted(_raw(data, block=block), str(work_dir), Meter(None)) as final:
        stored = b"".join(final)
    image.write_bytes(stored)
    assert (len(stored), hashlib.sha512(stored).hexdigest()) == (final.size, final.sha512)
    disks.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, image)
    assert list(work_dir.iterdir()) == []


def test_zeros_take_no_room_while_they_are_converted(
    mount_tmpfs: Callable[..., Path],
) -> None:
    work_dir = mount_tmpfs("size=2m")
    with converted(_raw(bytes(64 * MIB) + b"x" * 512), str(work_dir), Meter(None)) as final:
        assert final.size < MIB
    assert list(work_dir.iterdir()) == []


@pytest.mark.parametrize("room", ["1m", "5m"])  # not for the raw image, not for the qcow2
def test_without_room_the_upload_failed_with_the_advice(
    mount_tmpfs: Callable[..., Path], room: str
) -> None:
    work_dir = mount_tmpfs("size=" + room)
    with (
        pytest.raises(errors.UploadFailed, match=r"No space left.*choose another work") as caught,
        converted(_raw(os.urandom(4 * MIB)), str(work_dir), Meter(None)),
    ):
        pytest.fail("it was converted")
    assert str(work_dir) in str(caught.value)
    assert list(work_dir.iterdir()) == []


def test_a_work_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(errors.UploadFailed, match="%s/none" % tmp_path),
        converted(_raw(b"x" * 512), str(tmp_path / "none"), Meter(None)),
    ):
        pytest.fail("it was converted")


def test_by_default_it_is_the_system_s_temporary_directory(temporary: Path) -> None:
    with converted(_raw(b"x" * 512), None, Meter(None)):
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


def test_a_wrong_raw_image_is_not_converted(work_dir: Path) -> None:
    with (
        pytest.raises(errors.StorageMismatch, match="memory:raw"),
        converted(_raw(b"x" * 512, stored=b"y" * 512), str(work_dir), Meter(None)),
    ):
        pytest.fail("it was converted")
    assert list(work_dir.iterdir()) == []


def test_a_failure_inside_leaves_nothing(work_dir: Path) -> None:
    with pytest.raises(KeyboardInterrupt), converted(_raw(b"x" * 512), str(work_dir), Meter(None)):
        raise KeyboardInterrupt
    assert list(work_dir.iterdir()) == []


def test_both_steps_are_told(work_dir: Path) -> None:
    told: list[Progress] = []
    with converted(_raw(b"x" * MIB), str(work_dir), Meter(told.append)):
        pass
    assert list(dict.fromkeys(progress.phase for progress in told)) == ["fetch", "convert"]


def test_without_qemu_img_it_is_told(
    work_dir: Path, put_on_path: Callable[[str, str], None]
) -> None:
    put_on_path("qemu-img", "echo 'a broken installation' >&2; exit 127")
    with (
        pytest.raises(errors.UploadFailed, match="qemu-img failed: a broken installation"),
        converted(_raw(b"x" * 512), str(work_dir), Meter(None)),
    ):
        pytest.fail("it was converted")
    assert list(work_dir.iterdir()) == []
