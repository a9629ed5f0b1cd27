# SPDX-License-Identifier: Apache-2.0
"""What CONTRIBUTING.md shows of a writer is one."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipa_snapshot.devices.source import open_source
from ipa_snapshot.writers.base import Destination, Writer
from snapshot_core.credentials import Trust
from snapshot_core.image_options import ImageOptions
from snapshot_core.location import Location
from snapshot_core.progress import Meter
from snapshot_core.storage.directory import DirectoryStorage

MIB = 1024 * 1024
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_writer_that_is_shown_stores_the_disk(
    make_disk: Callable[..., Path], tmp_path: Path
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text("utf-8"), re.DOTALL)
    shown: dict[str, Any] = {}
    exec(compile(code, str(CONTRIBUTING), "exec"), shown)
    writer: Writer = shown["SparseWriter"]()
    disk = make_disk(3 * MIB, 6 * MIB)
    storage = DirectoryStorage(tmp_path, "file://%s" % tmp_path)
    location = Location.parse("file://%s" % tmp_path)
    destination = Destination(storage, "image.part", location, None, Trust())
    with open_source(str(disk)) as source:
        written = writer.write(source, destination, ImageOptions(), Meter(None))
    stored = (tmp_path / "image.part").read_bytes()
    assert stored == disk.read_bytes()
    assert (written.size, written.sha512) == (len(stored), hashlib.sha512(stored).hexdigest())
    assert 0 < written.bytes_sent < written.size
