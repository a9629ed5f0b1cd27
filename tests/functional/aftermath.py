# SPDX-License-Identifier: Apache-2.0
"""What every fault must end in, whatever it was: the same four assertions."""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Collection

import psutil

from tests.functional.commands import Outcome
from tests.functional.conftest import identical

_BLOCK = 1024 * 1024
_TIME_S = 20  # that a server may need to see that an upload broke off, or a daemon to end


class Scene:
    """A disk and a storage before something breaks; servers run already.

    :param disk: the content of the disk that a snapshot is taken of.
    :param store: the directory behind the intermediate storage.
    """

    def __init__(self, disk: pathlib.Path, store: pathlib.Path) -> None:
        self.disk = disk
        self.store = store
        self._digest = _content(disk)
        self._processes = _processes()
        self._traces = _traces()

    def assert_failed(
        self, outcome: Outcome, words: str | Collection[str], says: str, left: Collection[str] = ()
    ) -> None:
        """Assert that the snapshot failed, and how.

        :param words: the error word, or several that it may be.
        :param says: what the message has.
        :param left: the objects that may stay in a storage that could not be reached any more.
        """
        assert outcome.code == 1, outcome.err
        word = outcome.error.split(": ")[1]
        assert word in ((words,) if isinstance(words, str) else words), outcome.error
        assert says in outcome.error
        self._assert_storage(left)
        self.assert_nothing_left()

    def assert_stored(self, outcome: Outcome, same: bool = True) -> None:
        """Assert that the snapshot went on and its image is right.

        :param same: it must have the content of the disk, too, of which all is in use.
        """
        assert outcome.code == 0, outcome.err
        assert self.names() == ["image", "image.json"]
        manifest = json.loads((self.store / "image.json").read_bytes())
        assert manifest["checksum"]["value"] == digest(self.store / "image")
        if same:
            assert identical(self.disk, self.store / "image", manifest["disk_format"])
        self.assert_nothing_left()

    def note_changed_disk(self) -> None:
        """Take the disk as it is now for what is not to change: the test changed it."""
        self._digest = _content(self.disk)

    def names(self) -> list[str]:
        """Return what is in the storage, save the server's own."""
        names = (path.name for path in self.store.iterdir() if path.name != ".DAV")
        # mod_dav_fs writes an object under such a name, and one that is killed leaves it.
        return sorted(name for name in names if not name.startswith(".davfs.tmp"))

    def _assert_storage(self, left: Collection[str]) -> None:
        _wait_for(lambda: set(self.names()) <= set(left))
        assert set(self.names()) <= set(left)
        assert "image" not in self.names(), "wrong bytes have the final name"
        if "image.json" in self.names():
            assert "checksum" not in (self.store / "image.json").read_text(), "it says it is whole"

    def assert_nothing_left(self) -> None:
        """Assert that this machine and the disk are as they were."""
        self.assert_no_process_left()
        _wait_for(lambda: _traces() == self._traces)
        changed = sorted(set(_traces()) ^ set(self._traces))
        assert not changed, changed
        assert _content(self.disk) == self._digest, "the disk was written to"

    def assert_no_process_left(self) -> None:
        """Assert that all that was started has ended."""
        _wait_for(lambda: not _processes() - self._processes)
        left = [_command_of(pid) for pid in _processes() - self._processes]
        assert not left, left


def digest(path: pathlib.Path) -> str:
    """Return the sha512 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def _content(path: pathlib.Path) -> str:
    """Return a digest of what is not zero, and where: of a large and sparse file, too."""
    sha512 = hashlib.sha512()
    zeros = bytes(_BLOCK)
    with path.open("rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            with contextlib.suppress(OSError):  # behind the last data it is ENXIO
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // _BLOCK * _BLOCK
            block = os.pread(file.fileno(), _BLOCK, at)
            if block != zeros:
                sha512.update(b"%d " % at + block)
            at += _BLOCK
    return sha512.hexdigest()


def _traces() -> list[str]:
    """Return mounts, temporary files and caches, and threads of a snapshot in this process."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    # device, root, mount point: without the number of a mount and the options of a server's
    traces = [" ".join(line.split()[2:5]) for line in mounts]
    for directory in (tempfile.gettempdir(), "/run", "/run/mount.davfs", "/dev/shm"):
        traces += map(str, pathlib.Path(directory).glob("*"))
    traces += [one.name for one in threading.enumerate() if one.name.startswith("snapshot-")]
    # not what tests.lab keeps, nor the directories of libmount and davfs2 that stay
    kept = ("/run/mount", "/run/mount.davfs")
    return sorted(one for one in traces if one not in kept and "/lab-" not in one)


def _processes() -> set[int]:
    """Return the processes of this network namespace that no server of the tests has started.

    With them end the mount namespaces that a snapshot makes: nothing else holds those.
    """
    ours = os.readlink("/proc/self/ns/net")
    found = set()
    for process in psutil.process_iter():
        try:
            if os.readlink("/proc/%d/ns/net" % process.pid) != ours:
                continue
            # servers have a PID namespace of their own
            if os.readlink("/proc/%d/ns/pid" % process.pid) != os.readlink("/proc/self/ns/pid"):
                continue
            # and one outside, which is another after a restart
            if process.status() == psutil.STATUS_ZOMBIE or "--kill-child" in process.cmdline():
                continue
            found.add(process.pid)
        except (OSError, psutil.Error):
            continue
    return found


def _command_of(pid: int) -> list[str] | None:
    with contextlib.suppress(psutil.Error):  # it ends just now
        return psutil.Process(pid).cmdline()
    return None


def _wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + _TIME_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
