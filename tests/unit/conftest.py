# SPDX-License-Identifier: Apache-2.0
"""What every unit test gets: a temporary directory of its own that must be empty in the end."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import disks
from tests.unit.http_server import AnsweringServer, Respond

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def temporary(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give ``tempfile`` a directory of the test's own; whatever stays there fails the test."""
    directory = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    assert os.listdir(directory) == [], "temporary files or mounts are left behind"


@pytest.fixture
def mount_tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts a small tmpfs for as long as the test takes."""
    with contextlib.ExitStack() as stack:

        def mount(options: str = "size=1m") -> Path:
            where = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=tmp_path)))
            disks.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", where)
            stack.callback(disks.run, "umount", where)
            return where

        yield mount


@pytest.fixture
def serve() -> Iterator[Callable[[Respond], AnsweringServer]]:
    """Return a function that starts an HTTP server that answers as the test says."""
    with contextlib.ExitStack() as stack:
        yield lambda respond: stack.enter_context(AnsweringServer(respond))


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Undo what a command does to the process's logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in list(root.manager.loggerDict)}
    yield
    root.handlers[:], root.level = handlers, level
    for name in list(root.manager.loggerDict):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture
def make_disk(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a raw image file of random data, with zeros behind it."""

    def make(data: int = MIB, zeros: int = 0, name: str = "disk.raw") -> Path:
        path = tmp_path / name
        path.write_bytes(os.urandom(data))
        os.truncate(path, data + zeros)
        return path

    return make


@pytest.fixture
def put_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that puts a shell script before all other programs of its name."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", "%s:%s" % (directory, os.environ["PATH"]))

    def put(name: str, script: str) -> None:
        program = directory / name
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)

    return put
