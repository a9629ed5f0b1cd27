# SPDX-License-Identifier: Apache-2.0
"""The faults of docs/faults.rst that no other test has, each with the same end: see Scene."""

import contextlib
import itertools
import os
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from openstack.connection import Connection

from conductor_client import cli as conductor_cli
from ipa_snapshot import cli
from snapshot_core import terminal
from snapshot_core.progress import Progress
from snapshot_core.storage import patience
from tests.functional import commands
from tests.functional.aftermath import Scene
from tests.functional.commands import Outcome
from tests.functional.conftest import PASSWORD, USERNAME, same_files
from tests.lab import cgroups, disks, links, namespaces
from tests.lab.agent import Agent, FakeDisk
from tests.lab.apache import Apache
from tests.lab.cutting_proxy import CuttingProxy
from tests.lab.false_answers import FalseAnswers
from tests.lab.fuse_disk import fuse_disk
from tests.lab.glance import Glance
from tests.lab.wsgidav_server import WsgiDav

MIB = 1024 * 1024
SIZE = 40 * MIB  # three parts
# Cuts of minutes last as long as they say; else a tenth of that.
FULL_LENGTH = bool(os.environ.get("CUTS_IN_FULL_LENGTH"))
AWAY = ("StorageUnavailable", "WriteFailed")
# What nobody can remove from a server that is gone; the log names it.
UNREACHABLE = ("image.part", "image.json")

At = Callable[[str, Callable[[], object]], None]
TakeHere = Callable[..., Outcome]


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The content of a disk without a file system, of which all is in use and nothing is zero."""
    path = tmp_path_factory.mktemp("noise") / "noise.raw"
    path.write_bytes(random.Random(11).randbytes(SIZE))
    return path


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def apache(store: pathlib.Path) -> Iterator[Apache]:
    """A server that takes parts, over plain HTTP, so that a proxy sees what it says."""
    with Apache(store, USERNAME, PASSWORD, tls=False) as server:
        yield server


@pytest.fixture
def wsgidav(store: pathlib.Path) -> Iterator[WsgiDav]:
    """A server that takes an upload as one request."""
    with WsgiDav(store, USERNAME, PASSWORD) as server:
        yield server


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Return what lets something happen when a phase of a snapshot in this process begins."""
    due: dict[str, list[Callable[[], object]]] = {}
    show = terminal.ProgressDisplay.__call__

    def shown(self: terminal.ProgressDisplay, progress: Progress) -> None:
        show(self, progress)
        for action in due.pop(progress.phase, []):
            action()

    monkeypatch.setattr(terminal.ProgressDisplay, "__call__", shown)
    return lambda phase, action: due.setdefault(phase, []).append(action)


@pytest.fixture
def take_here(
    auth_file: pathlib.Path, noise: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> TakeHere:  # fmt: skip
    """Return what runs the command in this process, where a test can set what no option does."""
    monkeypatch.setattr("snapshot_core.terminal.set_up_logging", lambda *_, **__: None)

    def take(url: str, *more: object, disk: object = noise) -> Outcome:
        code = cli.main([str(word) for word in arguments(url, auth_file, disk, *more)])
        return Outcome(code, *capsys.readouterr())

    return take


def when_larger(path: pathlib.Path, size: int, action: Callable[[], object]) -> threading.Thread:
    """Return a thread that lets something happen when a file has grown."""

    def watch() -> None:
        deadline = time.monotonic() + 20
        while not path.exists() or path.stat().st_size <= size:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def arguments(url: str, auth_file: pathlib.Path, disk: object, *more: object) -> list[object]:
    # Without compression, since to choose one sends something beside the image.
    auth = () if url.startswith("file:") else ("--auth-file", auth_file)
    return ["stream", url, "image", "--device", disk, "--compression", "none", "--json",
            *auth, *more]  # fmt: skip


def through(proxy: CuttingProxy | FalseAnswers, server: Apache | WsgiDav) -> str:
    return server.url.replace(str(server.port), str(proxy.port))


# The storage


@pytest.mark.parametrize("writer", ["dd", "stream"])
@pytest.mark.parametrize("moment", ["stream", "publish"], ids=["first", "last"])
def test_a_server_that_is_killed_before_the_first_or_after_the_last_byte_is_told(
    apache: Apache, noise: pathlib.Path, at: At, take_here: TakeHere, writer: str, moment: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(patience, "OUTAGE_S", 1)
    at(moment, apache.kill)
    scene = Scene(noise, apache.document_root)
    outcome = take_here(apache.url, "--writer", writer)
    scene.assert_failed(outcome, AWAY, "cannot be reached", left=UNREACHABLE)
    assert "image.part may be left behind" in caplog.text


@pytest.mark.parametrize("moment", ["stream", "publish"], ids=["first", "last"])
def test_a_server_that_is_restarted_before_the_first_or_after_the_last_byte_costs_nothing(
    apache: Apache, noise: pathlib.Path, at: At, take_here: TakeHere, moment: str
) -> None:
    at(moment, apache.kill)
    at(moment, apache.start_again)
    scene = Scene(noise, apache.document_root)
    scene.assert_stored(take_here(apache.url))


@pytest.mark.parametrize("status", [500, 413])
@pytest.mark.parametrize(("writer", "spared"), [("dd", 1), ("stream", 1), ("stream", 3)])
def test_a_refusal_after_all_bytes_were_taken_is_told(
    request: pytest.FixtureRequest, noise: pathlib.Path, take_here: TakeHere, writer: str,
    spared: int, status: int,
) -> None:  # fmt: skip
    # After a try with a range: one request to a WsgiDAV; the first or last part to an Apache.
    server = request.getfixturevalue("wsgidav" if writer == "dd" else "apache")
    scene = Scene(noise, request.getfixturevalue("store"))
    with FalseAnswers(server.port, "/snapshots/image.part", spared=spared, status=status) as proxy:
        outcome = take_here(through(proxy, server), "--writer", writer)
    assert proxy.seen == spared + 1
    scene.assert_failed(outcome, "WriteFailed", "answered %d to PUT: the server" % status)


@pytest.mark.parametrize(("writer", "spared"), [("dd", 1), ("stream", 3), ("davfs", 0)])
def test_a_server_that_keeps_less_than_it_took_is_found_out(
    request: pytest.FixtureRequest, noise: pathlib.Path, take_here: TakeHere, writer: str,
    spared: int, store: pathlib.Path,
) -> None:  # fmt: skip
    def lose() -> None:
        with (store / "image.part").open("r+b") as file:
            file.truncate(max(0, file.seek(0, 2) - 1000))

    server = request.getfixturevalue("apache" if writer == "stream" else "wsgidav")
    scene = Scene(noise, store)
    with FalseAnswers(server.port, "/snapshots/image.part", spared=spared, then=lose) as proxy:
        outcome = take_here(through(proxy, server), "--writer", writer)
    scene.assert_failed(outcome, "StorageMismatch", "image.part holds ")


@pytest.mark.parametrize(
    ("writer", "percent"),
    [("davfs", 50), ("davfs", 99), *itertools.product(["dd", "stream"], [10, 50, 99])],
)
def test_a_storage_that_is_full_somewhere_is_left_empty(
    store: pathlib.Path, auth_file: pathlib.Path, noise: pathlib.Path, writer: str, percent: int
) -> None:
    size = SIZE * percent // 100 // 4096 * 4096
    disks.run("mount", "-t", "tmpfs", "-o", "size=%d" % size, "tmpfs", store)
    try:
        with Apache(store, USERNAME, PASSWORD, tls=False) as server:
            scene = Scene(noise, store)
            outcome = commands.run(
                "ipa-snapshot", *arguments(server.url, auth_file, noise, "--writer", writer)
            )
            scene.assert_failed(outcome, ("WriteFailed", "StorageMismatch"), "")
    finally:
        disks.run("umount", store)


def test_a_server_that_takes_nothing_for_longer_than_connecting_may_take_is_waited_for(
    wsgidav: WsgiDav, noise: pathlib.Path, at: At, take_here: TakeHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("snapshot_core.storage.webdav._TIMEOUT_S", (1, 300))
    server = psutil.Process(wsgidav.pid)
    resume = threading.Timer(3, server.resume)
    at("stream", server.suspend)
    at("stream", resume.start)
    scene = Scene(noise, wsgidav.directory)
    try:
        scene.assert_stored(take_here(wsgidav.url, "--writer", "dd"))
    finally:
        server.resume()


# The network


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The file behind /etc/hosts, where ``storage.test`` is this machine for as long as it says so.

    No other name service can be reached from here.
    """
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost storage.test\n")
    namespaces.cover("/etc/hosts", str(hosts))
    yield hosts
    disks.run("umount", "/etc/hosts")


def test_a_name_that_is_not_resolved_is_told(
    host: pathlib.Path, apache: Apache, noise: pathlib.Path, take_here: TakeHere
) -> None:
    host.write_text("127.0.0.1 localhost\n")
    scene = Scene(noise, apache.document_root)
    outcome = take_here("http://storage.test:%d/snapshots" % apache.port)
    scene.assert_failed(outcome, "StorageUnavailable", "Failed to resolve 'storage.test'")


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays away"])
def test_a_name_that_is_not_resolved_any_more_is_asked_for_again(
    host: pathlib.Path, apache: Apache, noise: pathlib.Path, take_here: TakeHere, comes_back: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(patience, "OUTAGE_S", 4)
    known = host.read_text()

    def forget() -> None:
        host.write_text("127.0.0.1 localhost\n")
        proxy.cut(1)  # so that the connection is made anew
        if comes_back:
            threading.Timer(1, host.write_text, [known]).start()

    scene = Scene(noise, apache.document_root)
    with CuttingProxy(apache.port) as proxy, links.slow("200mbit", "400ms"):
        watch = when_larger(apache.document_root / "image.part", 17 * MIB, forget)
        outcome = take_here("http://storage.test:%d/snapshots" % proxy.port)
        watch.join()
    if comes_back:
        assert "Failed to resolve 'storage.test'" in caplog.text
        scene.assert_stored(outcome)
    else:
        scene.assert_failed(outcome, "WriteFailed", "Failed to resolve", left=UNREACHABLE)
        assert "image.part may be left behind" in caplog.text


@pytest.mark.parametrize("writer", ["davfs", "dd", "stream"])
def test_a_certificate_that_has_expired_is_told_with_the_clock_of_this_machine(
    store: pathlib.Path, auth_file: pathlib.Path, noise: pathlib.Path, writer: str
) -> None:
    with Apache(store, USERNAME, PASSWORD, expired=True) as server:
        scene = Scene(noise, store)
        outcome = commands.run(
            "ipa-snapshot",
            *arguments(server.url, auth_file, noise, "--writer", writer, "--cacert", server.cacert),
        )
        scene.assert_failed(outcome, "StorageUnavailable", "certificate has expired")
    assert "renew it, or set the clock of this machine, where it is 20" in outcome.error


@pytest.mark.parametrize("writer", ["davfs", "dd", "stream"])
def test_a_network_that_loses_and_delays_packets_costs_only_time(
    apache: Apache, auth_file: pathlib.Path, noise: pathlib.Path, writer: str
) -> None:
    scene = Scene(noise, apache.document_root)
    with links.slow("400mbit", "100ms"), links.dropping(percent=2):
        outcome = commands.run(
            "ipa-snapshot", *arguments(apache.url, auth_file, noise, "--writer", writer)
        )
    scene.assert_stored(outcome)


class Wire:
    """A wire that is cut and mended; a timer mends it, and the test in any case."""

    def __init__(self) -> None:
        self._cut = contextlib.ExitStack()

    def cut(self) -> None:
        self._cut.enter_context(links.dropping())

    def mend(self) -> None:
        self._cut.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.mend()


@pytest.mark.parametrize("writer", ["dd", "stream"])
def test_a_cut_of_5_s_is_outlived(
    request: pytest.FixtureRequest, store: pathlib.Path, noise: pathlib.Path, at: At, wire: Wire,
    take_here: TakeHere, writer: str,
) -> None:  # fmt: skip
    # dd without parts: the connections go on
    server = request.getfixturevalue("wsgidav" if writer == "dd" else "apache")
    at("stream", wire.cut)
    at("stream", threading.Timer(5, wire.mend).start)
    scene = Scene(noise, store)
    began = time.monotonic()
    scene.assert_stored(take_here(server.url, "--writer", writer))
    assert time.monotonic() - began >= 5


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cut_s", [60, 600])
def test_a_cut_of_minutes_is_outlived_in_parts(
    store: pathlib.Path, noise: pathlib.Path, wire: Wire, take_here: TakeHere, cut_s: int,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    server_config = ""
    if not FULL_LENGTH:
        # All at a tenth. In the shorter cut the server gives up, and answers 408; in the longer one
        # we do, too.
        cut_s //= 10
        server_config = "Timeout 3"
        monkeypatch.setattr("snapshot_core.storage.connections.SENDING_S", 30)
        monkeypatch.setattr("snapshot_core.storage.webdav._TIMEOUT_S", (1.5, 30))
        monkeypatch.setattr(patience, "OUTAGE_S", patience.OUTAGE_S / 10)
    scene = Scene(noise, store)
    with (
        Apache(store, USERNAME, PASSWORD, tls=False, server_config=server_config) as apache,
        links.slow("200mbit", "400ms"),
    ):
        watch = when_larger(store / "image.part", 17 * MIB, wire.cut)
        threading.Timer(cut_s, wire.mend).start()
        began = time.monotonic()
        outcome = take_here(apache.url)
        watch.join()
    scene.assert_stored(outcome)
    assert time.monotonic() - began >= cut_s
    assert "trying again in" in caplog.text


@pytest.mark.parametrize(
    ("writer", "phase"),
    [("davfs", "upload"), *itertools.product(["dd", "stream"], ["prepare", "stream", "publish"])],
)
def test_a_reset_in_each_phase_costs_a_part_or_the_snapshot(
    request: pytest.FixtureRequest, store: pathlib.Path, noise: pathlib.Path, at: At,
    take_here: TakeHere, writer: str, phase: str,
) -> None:  # fmt: skip
    server = request.getfixturevalue("wsgidav" if writer == "dd" else "apache")
    with CuttingProxy(server.port) as proxy:
        # in the midst of an upload, and as soon as anything is asked in the other phases
        # davfs2 may begin before it is told to, a second after qemu-img
        begins = "convert" if phase == "upload" else phase
        at(begins, lambda: proxy.cut(1, 1 if phase in ("prepare", "publish") else 5 * MIB))
        scene = Scene(noise, store)
        outcome = take_here(through(proxy, server), "--writer", writer)
        assert proxy.cuts_left == 0
    # davfs2 sends it all again by itself
    if phase == "publish" or (writer, phase) in (("stream", "stream"), ("davfs", "upload")):
        scene.assert_stored(outcome)
    else:
        scene.assert_failed(outcome, AWAY, "cannot be reached")


# The disk


def slow_disk(
    content: pathlib.Path, directory: pathlib.Path
) -> contextlib.AbstractContextManager[pathlib.Path]:
    """Show the content as a file that is read with 10 MB/s."""
    return fuse_disk(
        directory, content.stat().st_size,
        "--filter=rate", "file", content, "rate=80M", "burstiness=0.1",
    )  # fmt: skip


def vanish(disk: pathlib.Path) -> None:
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):  # others come and go
            process = psutil.Process(pid)
            if process.name() == "nbdfuse" and str(disk) in process.cmdline():
                process.kill()
                process.wait(10)


# In which phase the disk is read, for some 4 s.
PHASES = {"stream": "stream", "dd": "stream", "nfs": "convert"}


@pytest.mark.parametrize(
    ("writer", "bad_sectors"),
    [("nfs", "fail"), *itertools.product(["dd", "stream"], ["fail", "zero"])],
)
def test_a_disk_that_vanishes_is_told_and_not_taken_for_zeros(
    noise: pathlib.Path, store: pathlib.Path, tmp_path: pathlib.Path, at: At, take_here: TakeHere,
    writer: str, bad_sectors: str,
) -> None:  # fmt: skip
    options = ("--writer", writer, "--bad-sectors", bad_sectors)
    with slow_disk(noise, tmp_path) as disk:
        scene = Scene(noise, store)
        at(PHASES[writer], threading.Timer(1, vanish, [disk]).start)
        outcome = take_here("file://%s" % store, *options, disk=disk)
        scene.assert_failed(outcome, "ReadFailed", "cannot be read at offset")


@pytest.mark.parametrize("writer", ["dd", "stream", "nfs"])
def test_an_image_of_a_disk_that_changes_has_of_each_sector_the_old_or_the_new(
    noise: pathlib.Path, store: pathlib.Path, tmp_path: pathlib.Path, at: At, take_here: TakeHere,
    writer: str,
) -> None:  # fmt: skip
    old, new = noise.read_bytes(), random.Random(12).randbytes(SIZE)
    content = tmp_path / "content"
    content.write_bytes(old)

    def change() -> None:
        with content.open("r+b") as file:
            file.write(new)

    with slow_disk(content, tmp_path) as disk:
        scene = Scene(content, store)
        at(PHASES[writer], threading.Timer(1, change).start)
        outcome = take_here("file://%s" % store, "--writer", writer, disk=disk)
        scene.note_changed_disk()
        scene.assert_stored(outcome, same=False)
    raw = tmp_path / "raw"
    fmt = outcome.json["disk_format"]
    disks.run("qemu-img", "convert", "-f", fmt, "-O", "raw", store / "image", raw)
    found = raw.read_bytes()
    sectors = {
        (found[at : at + 512] == old[at : at + 512], found[at : at + 512] == new[at : at + 512])
        for at in range(0, SIZE, 512)
    }
    assert sectors == {(True, False), (False, True)}


# The agent, and the machine that it runs on


@pytest.mark.parametrize("writer", ["davfs", "dd", "stream"])
@pytest.mark.parametrize("full", ["nr_inodes=1", "size=4k"])
def test_a_full_temporary_directory_is_told_or_does_not_matter(
    apache: Apache, small_disk: disks.Disk, take_here: TakeHere, tmp_path: pathlib.Path, full: str,
    writer: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    disks.run("mount", "-t", "tmpfs", "-o", full, "tmpfs", tmp)
    try:
        with contextlib.suppress(OSError):
            (tmp / "filler").write_bytes(bytes(8192))
        monkeypatch.setattr("tempfile.tempdir", str(tmp))
        monkeypatch.setenv("TMPDIR", str(tmp))
        scene = Scene(small_disk.path, apache.document_root)
        outcome = take_here(apache.url, "--writer", writer, disk=small_disk.path)
        if writer == "davfs":
            scene.assert_failed(outcome, "NotEnoughMemory", "No space left on device")
        else:
            scene.assert_stored(outcome, same=writer == "dd")
    finally:
        disks.run("umount", tmp)


def test_a_clock_that_jumps_changes_nothing(
    apache: Apache,
    noise: pathlib.Path,
    take_here: TakeHere,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    true_time = time.time
    jumps_s = itertools.repeat(0)

    def jump() -> None:
        nonlocal jumps_s
        jumps_s = itertools.cycle([-400 * 24 * 3600, 400 * 24 * 3600])
        proxy.cut(2)  # so that pauses are measured, too

    monkeypatch.setattr(time, "time", lambda: true_time() + next(jumps_s))
    scene = Scene(noise, apache.document_root)
    with CuttingProxy(apache.port) as proxy, links.slow("200mbit", "400ms"):
        watch = when_larger(apache.document_root / "image.part", 17 * MIB, jump)
        outcome = take_here(through(proxy, apache))
        watch.join()
    assert "trying again in" in caplog.text
    scene.assert_stored(outcome)
    assert 0 < outcome.json["elapsed_s"] < 60


def take_whole(
    agent: Agent, apache: Apache, image: str, auth_file: pathlib.Path, tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> Outcome:  # fmt: skip
    """Run the conductor's side in this process."""
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(agent.token)
    words: list[object] = [
        "take", "--agent-url", agent.url, "--agent-token-file", token,
        "--storage-url", apache.url, "--auth-file", auth_file, "--image-ref", image,
    ]  # fmt: skip
    code = conductor_cli.main([str(word) for word in words])
    return Outcome(code, *capsys.readouterr())


@pytest.fixture
def cloud(glance: Glance, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """A connection to Glance, which the command finds by itself."""
    monkeypatch.setattr("snapshot_core.terminal.set_up_logging", lambda *_, **__: None)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(glance.clouds_yaml(tmp_path / "clouds.yaml")))
    monkeypatch.setenv("OS_CLOUD", "lab")
    return glance.connection()


def test_an_agent_without_memory_is_told_to_be_silent_and_leaves_nothing(
    apache: Apache, fake_disk: FakeDisk, disk: disks.Disk, glance: Glance, cloud: Connection,
    auth_file: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("conductor_client.flow._AGENT_PATIENCE_S", 2)
    monkeypatch.setattr("conductor_client.flow._STOP_PATIENCE_S", 2)
    image = cloud.image.create_image(name="no memory", allow_duplicates=True).id
    with Agent([fake_disk]) as agent:
        processes = [agent.pid, *(one.pid for one in psutil.Process(agent.pid).children())]
        with cgroups.memory_limit(processes, 32 * MIB) as group:
            scene = Scene(disk.path, apache.document_root)
            outcome = take_whole(agent, apache, image, auth_file, tmp_path, capsys)
            assert group.killed > 0
    scene.assert_failed(outcome, "AgentUnavailable", "does not answer")
    assert cloud.image.get_image(image).status == "queued"
    assert not (glance.images / image).exists()


@pytest.mark.parametrize("fault", ["loss and delay", "a cut"])
def test_a_bad_network_to_the_agent_and_to_glance_costs_only_time(
    apache: Apache, fake_disk: FakeDisk, disk: disks.Disk, glance: Glance, cloud: Connection,
    auth_file: pathlib.Path, tmp_path: pathlib.Path, at: At, wire: Wire,
    capsys: pytest.CaptureFixture[str], fault: str,
) -> None:  # fmt: skip
    image = cloud.image.create_image(name="bad network", allow_duplicates=True).id
    with Agent([fake_disk]) as agent, contextlib.ExitStack() as network:
        if fault == "a cut":
            for phase in ("stream", "upload"):
                at(phase, lambda: (wire.cut(), threading.Timer(5, wire.mend).start()))
        else:
            network.enter_context(links.slow("400mbit", "100ms"))
            network.enter_context(links.dropping(percent=2))
        began = time.monotonic()
        outcome = take_whole(agent, apache, image, auth_file, tmp_path, capsys)
        lasted_s = time.monotonic() - began
    assert outcome.code == 0, outcome.err
    assert lasted_s > 10 or fault != "a cut"
    assert cloud.image.get_image(image).status == "active"
    assert same_files(disk, glance.images / image, tmp_path)


def test_a_byte_that_flips_in_the_storage_never_becomes_an_active_image(
    apache: Apache, fake_disk: FakeDisk, disk: disks.Disk, glance: Glance, cloud: Connection,
    auth_file: pathlib.Path, tmp_path: pathlib.Path, at: At, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def flip() -> None:
        (path,) = apache.document_root.glob("*-snapshot.qcow2")
        with path.open("r+b") as file:
            middle = file.seek(0, 2) // 2
            file.seek(middle)
            byte = file.read(1)[0]
            file.seek(middle)
            file.write(bytes([byte ^ 1]))

    image = cloud.image.create_image(name="flipped", allow_duplicates=True).id
    at("upload", flip)
    with Agent([fake_disk]) as agent:
        scene = Scene(disk.path, apache.document_root)
        outcome = take_whole(agent, apache, image, auth_file, tmp_path, capsys)
        assert list(agent.tempdir.iterdir()) == []
        scene.assert_failed(outcome, "StorageMismatch", "expected sha512")
    assert cloud.image.get_image(image).status == "queued"
    assert not (glance.images / image).exists()
