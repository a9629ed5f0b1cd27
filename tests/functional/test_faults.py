# SPDX-License-Identifier: Apache-2.0
"""What happens when the storage fails: the truth is told, and nothing wrong stays there."""

import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from ipa_snapshot import cli
from tests.functional import commands
from tests.functional.conftest import PASSWORD, USERNAME, Dav
from tests.functional.test_writers import stream, wait_until_begun
from tests.lab import certificates, disks
from tests.lab.apache import Apache
from tests.lab.wsgidav_server import WsgiDav

WRITERS = pytest.mark.parametrize("writer", ["davfs", "dd", "stream"])


def main_here(arguments: list[object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command in this process, where a test can set what no option does."""
    monkeypatch.setattr("snapshot_core.terminal.set_up_logging", lambda *_, **__: None)
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def tiny(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 16 MiB: too small for any of the images."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@WRITERS
@pytest.mark.parametrize("server", [WsgiDav, Apache])
def test_a_full_storage_is_told_and_left_empty(
    tiny: pathlib.Path, auth_file: pathlib.Path, small_loop: str, writer: str,
    server: Callable[..., WsgiDav | Apache],
) -> None:  # fmt: skip
    with server(tiny, USERNAME, PASSWORD) as running:
        dav = Dav(running.url, tiny, getattr(running, "cacert", None))
        arguments = stream(dav, auth_file, "image", small_loop, "--writer", writer)
        outcome = commands.run("ipa-snapshot", *arguments)
        assert outcome.code == 1
        assert "WriteFailed" in outcome.error or "StorageMismatch" in outcome.error
        assert dav.names() == []


@pytest.mark.parametrize("writer", ["nfs", "dd", "stream"])
def test_a_full_directory_is_told_and_left_empty(
    tiny: pathlib.Path, small_loop: str, writer: str
) -> None:
    outcome = commands.run(
        "ipa-snapshot", "stream", "file://%s" % tiny, "image", "--device", small_loop,
        "--writer", writer,
    )  # fmt: skip
    assert outcome.code == 1
    assert "WriteFailed" in outcome.error
    assert "No space left on device" in outcome.error
    assert list(tiny.iterdir()) == []


@WRITERS
def test_a_storage_that_is_read_only_is_told_before_anything_is_sent(
    tiny: pathlib.Path, auth_file: pathlib.Path, small_loop: str, writer: str
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny], check=True)
    with WsgiDav(tiny, USERNAME, PASSWORD) as running:
        dav = Dav(running.url, tiny, None)
        arguments = stream(dav, auth_file, "image", small_loop, "--writer", writer)
        outcome = commands.run("ipa-snapshot", *arguments)
    assert outcome.code == 1
    assert "StorageUnavailable" in outcome.error
    subprocess.run(["mount", "-o", "remount,rw", tiny], check=True)


# When the image is published a server that is away is waited for, for two minutes and not for five
# seconds.
_IMPATIENT = """\
import sys
from ipa_snapshot import cli
from snapshot_core.storage import patience
patience.OUTAGE_S = 5
sys.exit(cli.main())
"""


@WRITERS
def test_a_server_that_is_killed_meanwhile_is_told_and_publishes_nothing(
    auth_file: pathlib.Path,
    disk: disks.Disk,
    tmp_path: pathlib.Path,
    writer: str,
    slow_network: None,
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with disks.LoopDevice(disk.path) as loop, WsgiDav(store, USERNAME, PASSWORD) as running:
        dav = Dav(running.url, store, None)
        # Without compression, since to choose one sends something beside the image.
        more = ("--writer", writer, "--compression", "none")
        arguments = stream(dav, auth_file, "image", loop.path, *more)
        command = commands.start(sys.executable, "-c", _IMPATIENT, *arguments)
        wait_until_begun(dav)
        running.kill()
        outcome = commands.finish(command)
    assert outcome.code == 1
    assert any(word in outcome.error for word in ("WriteFailed", "StorageUnavailable"))
    # Nobody can remove the part and the progress from a server that is gone; the log names them.
    assert set(dav.names()) <= {"image.part", "image.json"}
    assert not any("checksum" in path.read_text() for path in store.glob("image.json"))
    assert "image.part may be left behind" in outcome.err


@WRITERS
def test_an_upload_that_the_server_limits_is_told(
    auth_file: pathlib.Path, small_loop: str, tmp_path: pathlib.Path, writer: str
) -> None:
    with Apache(
        tmp_path / "dav", USERNAME, PASSWORD, extra_config="LimitRequestBody 1000000"
    ) as it:
        dav = Dav(it.url, tmp_path / "dav", it.cacert)
        arguments = stream(dav, auth_file, "image", small_loop, "--writer", writer)
        outcome = commands.run("ipa-snapshot", *arguments)
        assert outcome.code == 1
        assert "WriteFailed" in outcome.error or "StorageMismatch" in outcome.error
        assert dav.names() == []


@WRITERS
def test_wrong_credentials_are_told(
    dav: Dav, small_loop: str, tmp_path: pathlib.Path, writer: str
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.touch(mode=0o600)
    wrong.write_text('{"username": "%s", "password": "wrong"}' % USERNAME)
    outcome = commands.run("ipa-snapshot", *stream(dav, wrong, "a", small_loop, "--writer", writer))
    assert outcome.code == 1
    assert "StorageUnavailable" in outcome.error
    assert "401" in outcome.error
    assert dav.names() == []


def test_a_collection_that_does_not_exist_is_told(
    dav: Dav, auth_file: pathlib.Path, small_loop: str
) -> None:
    elsewhere = Dav(dav.url + "/nosuch", dav.directory, dav.cacert)
    outcome = commands.run("ipa-snapshot", *stream(elsewhere, auth_file, "a", small_loop))
    assert outcome.code == 1
    assert "StorageUnavailable" in outcome.error
    assert "404" in outcome.error


def test_a_server_that_is_not_there_is_told(
    tmp_path: pathlib.Path, auth_file: pathlib.Path, small_loop: str
) -> None:
    nowhere = Dav("http://127.0.0.1:9/snapshots", tmp_path, None)
    outcome = commands.run("ipa-snapshot", *stream(nowhere, auth_file, "a", small_loop))
    assert outcome.code == 1
    assert "StorageUnavailable" in outcome.error
    assert "cannot be reached" in outcome.error


@WRITERS
def test_a_certificate_that_is_not_trusted_is_told(
    apache: Dav, auth_file: pathlib.Path, small_loop: str, tmp_path: pathlib.Path, writer: str
) -> None:
    (tmp_path / "other").mkdir()
    other = certificates.issue(tmp_path / "other")
    for cacert in (None, other.cacert):
        untrusted = Dav(apache.url, apache.directory, cacert)
        outcome = commands.run(
            "ipa-snapshot", *stream(untrusted, auth_file, "a", small_loop, "--writer", writer)
        )
        assert outcome.code == 1
        assert "certificate is not trusted" in outcome.error
    assert apache.names() == []


def test_without_verification_dd_goes_on_and_davfs_says_that_it_cannot(
    apache: Dav, auth_file: pathlib.Path, small_loop: str
) -> None:
    unverified = Dav(apache.url, apache.directory, None)
    outcome = commands.run(
        "ipa-snapshot",
        *stream(unverified, auth_file, "a", small_loop, "--insecure", "--writer", "davfs"),
    )
    assert outcome.code == 1
    assert "davfs always verifies" in outcome.error
    assert apache.names() == []
    outcome = commands.run(
        "ipa-snapshot",
        *stream(unverified, auth_file, "a", small_loop, "--insecure", "--writer", "dd"),
    )
    assert outcome.code == 0, outcome.err
    assert apache.names() == ["a", "a.json"]


def test_an_image_that_outgrows_davfs2s_cache_is_told_and_not_uploaded(
    apache: Dav, auth_file: pathlib.Path, small_loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if memory had shrunk after it was measured: here in this process, to set the size.
    monkeypatch.setattr("ipa_snapshot.writers.davfs._cache_size", lambda *_: 4 << 20)
    arguments = stream(apache, auth_file, "image", small_loop, "--writer", "davfs")
    assert main_here(arguments, monkeypatch) == 1
    assert apache.names() == []


def test_too_little_memory_for_davfs2_is_refused_and_says_how_much_is_needed(
    apache: Dav, auth_file: pathlib.Path, small_loop: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("ipa_snapshot.memory._RESERVE", 1 << 50)
    arguments = stream(apache, auth_file, "image", small_loop, "--writer", "davfs")
    assert main_here(arguments, monkeypatch) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "NotEnoughMemory" in error
    assert "MiB" in error
    assert apache.names() == []


def test_a_slow_server_that_stops_answering_does_not_hold_us_for_ever(
    auth_file: pathlib.Path, small_loop: str, tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("snapshot_core.storage.webdav._TIMEOUT_S", (2, 2))
    store = tmp_path / "store"
    with Apache(store, USERNAME, PASSWORD) as running:
        processes = [psutil.Process(running.pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            began = time.monotonic()
            dav = Dav(running.url, store, running.cacert)
            arguments = stream(dav, auth_file, "image", small_loop, "--writer", "dd")
            assert main_here(arguments, monkeypatch) == 1
            assert time.monotonic() - began < 30
        finally:
            for process in processes:
                process.resume()
    assert "StorageUnavailable" in capsys.readouterr().err


@pytest.mark.parametrize("writer", ["nfs", "dd", "stream"])
def test_a_disk_that_cannot_be_read_is_told_with_the_offset(
    tmp_path: pathlib.Path, writer: str
) -> None:
    (tmp_path / "images").mkdir()
    image = tmp_path / "disk.raw"
    image.write_bytes(b"\1" * (64 << 20))
    with disks.LoopDevice(image) as loop:
        # The loop device keeps its size, and answers EIO behind the end of its file.
        with image.open("r+b") as file:
            file.truncate(32 << 20)
        outcome = commands.run(
            "ipa-snapshot", "stream", "file://%s/images" % tmp_path, "image",
            "--device", loop.path, "--writer", writer,
        )  # fmt: skip
    assert outcome.code == 1
    found = re.search(r"ReadFailed: %s cannot be read at offset (\d+):" % loop.path, outcome.error)
    assert found is not None, outcome.error
    # qemu-img reads several places at once, and tells of the first that fails; stream has samples
    # of the whole disk first
    assert (32 << 20) <= int(found[1]) < ((32 << 20) + 1 if writer == "dd" else 64 << 20)
    assert list((tmp_path / "images").iterdir()) == []
