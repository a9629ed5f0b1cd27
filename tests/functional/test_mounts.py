# SPDX-License-Identifier: Apache-2.0
"""An interrupt while mount(8) and its helper still work."""

import contextlib
import os
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from snapshot_core import mounts

BIND, WAIT = 'mount --bind "$1" "$2"\n', "echo $$ >%s\nsleep 60\n"


@pytest.mark.parametrize("script", [WAIT + BIND, BIND + WAIT], ids=["before", "after"])
def test_an_interrupt_ends_the_helper_of_mount_and_leaves_no_mount(
    script: str, tmp_path: pathlib.Path, mount_helper: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    began, parent = tmp_path / "began", tmp_path / "parent"
    parent.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    mount_helper("davfs", script % began)
    interrupt = threading.Thread(target=_interrupt_when_written, args=(began,))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt), mounts.mounted("davfs", str(tmp_path), ["rw"]):
        pytest.fail("it was mounted")
    interrupt.join()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(began.read_text())).wait(5)  # it was killed, and is about to go
    assert list(parent.iterdir()) == []


def _interrupt_when_written(path: pathlib.Path) -> None:
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
