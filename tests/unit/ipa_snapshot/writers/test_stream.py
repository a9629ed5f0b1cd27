# SPDX-License-Identifier: Apache-2.0
"""What the writer ``stream`` tells of its work is all of it; and its budget is kept."""

import pathlib
import random
from collections.abc import Callable, Iterable

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices.source import open_source
from ipa_snapshot.images import compression
from ipa_snapshot.images.budget import MIB, Budget
from ipa_snapshot.writers.base import Destination, Written
from ipa_snapshot.writers.stream import StreamWriter
from snapshot_core.credentials import Trust
from snapshot_core.image_options import ImageOptions
from snapshot_core.location import Location
from snapshot_core.progress import Meter, OnProgress, Progress
from snapshot_core.storage import parts
from tests.lab import disks
from tests.unit.memory_storage import MemoryStorage

SIZE = 200 * MIB
_TRUE_COSTS = compression.Costs.measure


class CountingStorage(MemoryStorage):
    """Counts what it was sent, and has no room for objects beside the image if it is ``full``."""

    def __init__(self, *, full: bool = False) -> None:
        super().__init__()
        self.sent = 0
        self._full = full

    def write(self, name: str, chunks: Iterable[bytes], length: int | None) -> None:
        if self._full and name != "image.part":
            raise errors.WriteFailed("%s answered 507 to PUT" % name)
        super().write(name, chunks, length)
        self.sent += len(self.objects[name])


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def link_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: object) -> compression.Costs:
        found = _TRUE_COSTS(*arguments)
        return compression.Costs(1e-6, 1e-9, 1.0, found.bytes_read)

    monkeypatch.setattr(compression.Costs, "measure", slow)


def take(
    disk: pathlib.Path, storage: MemoryStorage, kind: str, on_progress: OnProgress | None = None
) -> Written:
    storage.create("image.part")
    where = Location.parse("http://127.0.0.1:1/dir")
    destination = Destination(storage, "image.part", where, None, Trust())
    with open_source(str(disk)) as source:
        options, meter = ImageOptions("qcow2", kind), Meter(on_progress)
        return StreamWriter().write(source, destination, options, meter)


@pytest.mark.usefixtures("link_decides")
def test_what_was_read_and_sent_to_choose_is_counted(disk: pathlib.Path) -> None:
    storage = CountingStorage()
    with_auto = take(disk, storage, "auto")
    assert with_auto.bytes_sent == storage.sent > with_auto.size
    chosen = with_auto.compression
    named = take(disk, CountingStorage(), chosen)
    assert named.bytes_sent == named.size
    assert with_auto.bytes_read - named.bytes_read == 8 * 256 * 1024
    assert SIZE < with_auto.bytes_read <= 1.02 * SIZE


@pytest.mark.usefixtures("link_decides")
def test_a_storage_without_room_for_a_measurement_still_gets_its_image(
    disk: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = CountingStorage(full=True)
    written = take(disk, storage, "auto")
    assert written.compression == "zstd"
    assert written.size == written.bytes_sent == len(storage.objects["image.part"])
    assert "how fast the storage is cannot be measured: ipa-snapshot-" in caplog.text


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
def test_what_is_held_leaves_room_for_the_program_itself(cores: int) -> None:
    assert Budget.for_machine(parts.PART, cores).total <= 150 * MIB


def test_whoever_wants_an_end_is_asked_while_the_disk_is_mapped(
    make_disk: Callable[..., pathlib.Path], put_on_path: Callable[[str, str], None]
) -> None:
    path = make_disk(0, 16 * MIB)
    disks.run("mkfs.ext4", "-q", path)
    put_on_path("dumpe2fs", "sleep 1; exit 1")
    told: list[str] = []

    def stop(progress: Progress) -> None:
        told.append(progress.phase)
        if len(told) > 1:
            raise errors.Cancelled("it is not wanted any more")

    with pytest.raises(errors.Cancelled):
        take(path, MemoryStorage(), "zstd", stop)
    assert told == ["map", "map"]
