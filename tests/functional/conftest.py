# SPDX-License-Identifier: Apache-2.0
"""The real parts that the functional tests share: disks, servers, an agent, a Glance."""

import hashlib
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.lab import conductors, disk_maker, disks, namespaces
from tests.lab.agent import FakeDisk
from tests.lab.apache import Apache
from tests.lab.glance import Glance
from tests.lab.keystone import Keystone
from tests.lab.wsgidav_server import WsgiDav

# Now, because no thread runs yet: servers must not listen, nor mounts appear, on the host.
namespaces.enter()

USERNAME = "snapshot"
# What a configuration file, a header or a log could stumble over; and what no log may hold.
PASSWORD = 'pass "word\\ #ü'
SERIAL, WWN = "LAB-SERIAL-1", "0x5000c500a1b2c3d4"


@dataclass(frozen=True)
class Dav:
    """A WebDAV storage that is running: where it is, and the directory behind it."""

    url: str
    directory: pathlib.Path
    cacert: pathlib.Path | None

    def names(self) -> list[str]:
        """Return what it holds, save the server's own files."""
        return sorted(path.name for path in self.directory.iterdir() if path.name != ".DAV")


@pytest.fixture(scope="module")
def keystone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keystone]:
    with Keystone(tmp_path_factory.mktemp("keystone")) as server:
        yield server


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[disks.Disk]:
    """A disk of a machine: 4 GiB, four partitions, files and deleted files; never written to."""
    made = disk_maker.make_disk(tmp_path_factory.mktemp("disk") / "disk.raw", 4 * disk_maker.GIB)
    before = _digest(made.path)
    yield made
    assert _digest(made.path) == before, "a test, or what it tested, wrote to the disk"


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> disks.Disk:
    """A disk of 600 MiB, for what is not about size."""
    path = tmp_path_factory.mktemp("small") / "small.raw"
    return disk_maker.make_disk(path, 600 * disk_maker.MIB, data_mib=20, junk_mib=20)


@pytest.fixture
def fake_disk(disk: disks.Disk) -> Iterator[FakeDisk]:
    """The disk as a loop device that the agent takes for a machine's disk."""
    with disks.LoopDevice(disk.path) as loop:
        yield FakeDisk(loop.path, disk.size, serial=SERIAL, wwn=WWN)


@pytest.fixture
def small_loop(small_disk: disks.Disk) -> Iterator[str]:
    """The path of a loop device that holds the small disk."""
    with disks.LoopDevice(small_disk.path) as loop:
        yield loop.path


@pytest.fixture
def wsgidav(tmp_path: pathlib.Path) -> Iterator[Dav]:
    """A real WsgiDAV over plain HTTP, with Basic authentication."""
    store = tmp_path / "wsgidav"
    store.mkdir()
    with WsgiDav(store, USERNAME, PASSWORD) as server:
        yield Dav(server.url, store, None)


@pytest.fixture
def apache(tmp_path: pathlib.Path) -> Iterator[Dav]:
    """A real Apache with TLS and Basic authentication."""
    store = tmp_path / "apache"
    with Apache(store, USERNAME, PASSWORD) as server:
        yield Dav(server.url, store, server.cacert)


@pytest.fixture(params=["wsgidav", "apache"])
def dav(request: pytest.FixtureRequest) -> Dav:
    """Each of the WebDAV servers in turn."""
    server: Dav = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def glance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glance]:
    """A real Glance."""
    with Glance(tmp_path_factory.mktemp("glance")) as server:
        yield server


@pytest.fixture
def auth_file(tmp_path: pathlib.Path) -> pathlib.Path:
    """An auth file with the account of both WebDAV servers."""
    path = tmp_path / "auth.yaml"
    path.touch(mode=0o600)
    path.write_text("username: %s\npassword: '%s'\n" % (USERNAME, PASSWORD), encoding="utf-8")
    return path


@pytest.fixture
def slow_network() -> Iterator[None]:
    """A loopback interface of 16 Mbit/s."""
    with conductors.slowed_network():
        yield


@pytest.fixture(autouse=True)
def nothing_left(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Give each test its own temporary directory, and see that nothing stays, or stays mounted."""
    # Not in tmp_path: a socket's path has 107 bytes at most, and a test may have a long name.
    scratch = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = _traces(scratch)
    yield
    assert _traces(scratch) == before


def _traces(scratch: pathlib.Path) -> list[str]:
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    traces = [line for line in mounts if "ipa-snapshot" in line]
    for directory in (scratch, pathlib.Path("/run")):
        traces += map(str, directory.glob("ipa-snapshot*"))
    return sorted(traces)


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_in_the_end(names: Callable[[], list[str]], expected: Sequence[str] = ()) -> list[str]:
    """Return what a storage holds, once that is as expected, or after 20 s.

    An upload that broke off: its server may notice that, and keep what came, after we removed it.
    """
    deadline = time.monotonic() + 20
    while (found := names()) != list(expected) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def identical(raw: os.PathLike[str] | str, image: os.PathLike[str], fmt: str = "qcow2") -> bool:
    """Tell whether an image has the content of a raw disk, by qemu-img's own comparison."""
    command = ["qemu-img", "compare", "-f", "raw", "-F", fmt, str(raw), str(image)]
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0


def same_files(disk: disks.Disk, image: pathlib.Path, scratch: pathlib.Path) -> bool:
    """Tell whether an image restores to file systems that are sound and hold the same files."""
    restored = scratch / "restored.raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(restored)]
    subprocess.run(command, check=True)
    for partition in disk.partitions:
        if disks.checksums(disk.path, partition) != disks.checksums(restored, partition):
            return False
        with disks.LoopDevice(restored, partition.offset, partition.size) as loop:
            check = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}.get(partition.fs)
            if (
                check
                and subprocess.run([*check, loop.path], check=False, capture_output=True).returncode
            ):
                return False
    restored.unlink()
    return True


# What is not run here, and why: said at the end of every run, because a silence would look
# like a pass.
NOT_RUN = (
    "NFS through a kernel's client: this suite's hosts need not have one; the writer nfs and the "
    "storage nfs:// ran with a fake mount helper that binds a local directory",
    "disks behind a real controller: loop devices stand for them, listed to the agent by a fake "
    "hardware manager",
    "xfs of version 4, where the kernel does not mount it: its map is read, and not shown right",
    "Keystone, in most tests: Glance trusts a fake middleware in its place, and Ironic is asked "
    "without it; make test-integrations has a real one",
    "power, boot and networks of machines: Ironic's own fakes stand for them",
    "NTFS that Windows wrote, F2FS that a kernel wrote: ntfs-3g and f2fs-tools wrote them",
    "what only another release of Ironic does: make test-oldest has the oldest pair",
    "the agent in a ramdisk on a machine: it ran in namespaces of this one; make test-machine "
    "boots one",
)


BY_ITSELF = "snapshots through a real Ironic: they take long, and make test-ironic runs them"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what these tests do not show."""
    terminalreporter.section("not run here, and why")
    for line in (*NOT_RUN, *([BY_ITSELF] if config.getoption("ignore") else [])):
        terminalreporter.write_line("- " + line)


@pytest.fixture
def mount_helper(tmp_path: pathlib.Path) -> Iterator[Callable[[str, str], None]]:
    """Return a function that gives mount(8) a script as its helper for a type of file systems."""
    helpers = tmp_path / "sbin"
    helpers.mkdir()

    def make(fs_type: str, script: str) -> None:
        helper = helpers / ("mount." + fs_type)
        helper.write_text("#!/bin/sh\n" + script)
        helper.chmod(0o755)
        # In this mount namespace, which is this process's own.
        disks.run("mount", "-t", "overlay", "-o", "lowerdir=%s:/sbin" % helpers, "overlay", "/sbin")

    yield make
    disks.run("umount", "/sbin")
