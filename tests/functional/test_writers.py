# SPDX-License-Identifier: Apache-2.0
"""``ipa-snapshot stream`` of a loop device: each writer, to each storage, and what stops it."""

import hashlib
import json
import pathlib
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from tests.functional import commands
from tests.functional.aftermath import Scene
from tests.functional.conftest import (
    PASSWORD,
    USERNAME,
    Dav,
    identical,
    names_in_the_end,
    same_files,
)
from tests.lab import disks
from tests.lab.nginx import Nginx


@pytest.fixture(params=["all of WebDAV", "no MOVE"])
def nginx(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Dav]:
    """A real nginx with TLS and Basic authentication; its module, or what is least of it."""
    methods = {"all of WebDAV": "PUT DELETE MKCOL COPY MOVE", "no MOVE": "PUT DELETE"}
    store = tmp_path / "nginx"
    with Nginx(store, USERNAME, PASSWORD, methods=methods[request.param]) as server:
        yield Dav(server.url, store, server.cacert)


def stream(dav: Dav, auth_file: pathlib.Path, name: str, loop: str, *more: object) -> list[object]:
    trust = ["--cacert", dav.cacert] if dav.cacert else []
    return ["stream", dav.url, name, "--device", loop, "--auth-file", auth_file, *trust, *more]


@pytest.mark.parametrize(
    ("writer", "more", "disk_format", "compression"),
    [
        ("davfs", (), "qcow2", "zstd"),
        ("davfs", ("--compression", "zlib"), "qcow2", "zlib"),
        ("davfs", ("--format", "raw"), "raw", "none"),
        ("dd", (), "raw", "none"),
    ],
)
def test_a_webdav_server_holds_the_disk(
    dav: Dav, auth_file: pathlib.Path, small_disk: disks.Disk, small_loop: str, writer: str,
    more: tuple[str, ...], disk_format: str, compression: str,
) -> None:  # fmt: skip
    outcome = commands.run(
        "ipa-snapshot",
        *stream(dav, auth_file, "image", small_loop, "--writer", writer, "--json", *more),
    )
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert (result["writer"], result["disk_format"], result["compression"]) == (
        writer, disk_format, compression,
    )  # fmt: skip
    assert result["virtual_size"] == small_disk.size
    assert result["size"] == (dav.directory / "image").stat().st_size
    assert dav.names() == ["image", "image.json"]
    assert json.loads((dav.directory / "image.json").read_bytes()) == result
    assert identical(small_disk.path, dav.directory / "image", disk_format)


@pytest.mark.parametrize("writer", ["dd", "stream"])
def test_an_nginx_holds_the_disk(
    nginx: Dav, auth_file: pathlib.Path, small_disk: disks.Disk, small_loop: str, writer: str
) -> None:
    outcome = commands.run(
        "ipa-snapshot", *stream(nginx, auth_file, "image", small_loop, "--writer", writer, "--json")
    )
    assert outcome.code == 0, outcome.err
    image = nginx.directory / "image"
    assert nginx.names() == ["image", "image.json"]
    assert json.loads((nginx.directory / "image.json").read_bytes()) == outcome.json
    digest = hashlib.sha512(image.read_bytes()).hexdigest()
    assert outcome.json["checksum"]["value"] == digest
    if writer == "dd":
        assert identical(small_disk.path, image, "raw")
    else:
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)


def test_a_size_that_nginx_does_not_take_is_told_and_nothing_stays(
    auth_file: pathlib.Path, small_loop: str, tmp_path: pathlib.Path
) -> None:
    with Nginx(tmp_path / "nginx", USERNAME, PASSWORD, largest="1m") as server:
        dav = Dav(server.url, tmp_path / "nginx", server.cacert)
        outcome = commands.run("ipa-snapshot", *stream(dav, auth_file, "image", small_loop))
        assert outcome.code == 1
        assert "answered 413 to PUT: the server limits the size of an upload" in outcome.error
        assert dav.names() == []


def test_a_wrong_password_is_told_by_nginx_too(
    auth_file: pathlib.Path, small_loop: str, tmp_path: pathlib.Path
) -> None:
    with Nginx(tmp_path / "nginx", USERNAME, "another") as server:
        dav = Dav(server.url, tmp_path / "nginx", server.cacert)
        outcome = commands.run("ipa-snapshot", *stream(dav, auth_file, "image", small_loop))
    assert outcome.code == 1
    assert "answered 401 to" in outcome.error


def test_a_webdav_server_holds_what_the_file_systems_use(
    dav: Dav, auth_file: pathlib.Path, disk: disks.Disk, tmp_path: pathlib.Path
) -> None:
    with disks.LoopDevice(disk.path) as loop:
        outcome = commands.run(
            "ipa-snapshot", *stream(dav, auth_file, "image", loop.path, "--json")
        )
    assert outcome.code == 0, outcome.err
    result, image = outcome.json, dav.directory / "image"
    assert (result["writer"], result["compression"]) == ("stream", "zstd")
    assert result["checksum"]["value"] == hashlib.sha512(image.read_bytes()).hexdigest()
    assert result["bytes_read"] <= 1.02 * result["used"]
    assert result["used"] < disk.size // 8
    assert {part["fs"]: part["journal"] for part in result["partitions"]} == {
        "vfat": None, "swap": None, "xfs": "clean", "ext4": "clean",
    }  # fmt: skip
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=True)
    assert same_files(disk, image, tmp_path)


@pytest.mark.parametrize("compression", ["zstd", "zlib", "none"])
def test_the_stream_is_right_with_each_compression(
    tmp_path: pathlib.Path, small_disk: disks.Disk, compression: str
) -> None:
    (tmp_path / "images").mkdir()
    outcome = commands.run(
        "ipa-snapshot", "stream", "file://%s/images" % tmp_path, "image",
        "--device", small_disk.path, "--compression", compression, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.json["compression"] == compression
    assert same_files(small_disk, tmp_path / "images/image", tmp_path)


def test_a_raw_stream_holds_zeros_where_nothing_is_in_use(
    wsgidav: Dav, auth_file: pathlib.Path, small_disk: disks.Disk, small_loop: str
) -> None:
    arguments = stream(wsgidav, auth_file, "image", small_loop, "--format", "raw", "--json")
    outcome = commands.run("ipa-snapshot", *arguments)
    assert outcome.code == 0, outcome.err
    image = wsgidav.directory / "image"
    assert image.stat().st_size == outcome.json["size"] == small_disk.size
    for partition in small_disk.partitions:
        assert disks.checksums(image, partition) == disks.checksums(small_disk.path, partition)
    assert not identical(small_disk.path, image, "raw")  # what was deleted is not in it


@pytest.mark.parametrize("writer", ["nfs", "davfs", "dd"])
def test_a_local_directory_holds_the_disk(
    tmp_path: pathlib.Path, small_disk: disks.Disk, writer: str
) -> None:
    target = tmp_path / "images"
    target.mkdir()
    outcome = commands.run(
        "ipa-snapshot", "stream", "file://%s" % target, "image", "--device", small_disk.path,
        "--writer", writer, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in target.iterdir()) == ["image", "image.json"]
    assert identical(small_disk.path, target / "image", outcome.json["disk_format"])
    assert stat.S_IMODE((target / "image").stat().st_mode) == 0o600


@pytest.fixture
def export(tmp_path: pathlib.Path, mount_helper: Callable[[str, str], None]) -> pathlib.Path:
    """An NFS export without NFS: a fake of the mount helper binds a local directory.

    This kernel has no NFS client. All else is real: mount(8) finds and calls the helper, and
    umount(8) unmounts what it made.
    """
    directory = tmp_path / "export"
    directory.mkdir()
    script = '[ "$1" = "192.0.2.7:/export" ] || exit 32\nexec mount --bind "%s" "$2"\n'
    mount_helper("nfs", script % directory)
    return directory


@pytest.mark.parametrize("url", ["192.0.2.7:/export", "nfs://192.0.2.7/export"])
@pytest.mark.parametrize("writer", ["nfs", "dd"])
def test_an_export_holds_the_disk_and_is_unmounted(
    export: pathlib.Path, small_disk: disks.Disk, url: str, writer: str
) -> None:
    outcome = commands.run(
        "ipa-snapshot", "stream", url, "image", "--device", small_disk.path,
        "--writer", writer, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in export.iterdir()) == ["image", "image.json"]
    assert identical(small_disk.path, export / "image", outcome.json["disk_format"])


def test_an_export_that_cannot_be_mounted_is_named(export: pathlib.Path, small_loop: str) -> None:
    outcome = commands.run(
        "ipa-snapshot", "stream", "192.0.2.7:/other", "image", "--device", small_loop
    )
    assert outcome.code == 1
    assert (
        "StorageUnavailable: 192.0.2.7:/other cannot be mounted as nfs: exit status 32"
        in outcome.error
    )


def test_an_image_that_exists_is_neither_overwritten_nor_removed(
    dav: Dav, auth_file: pathlib.Path, small_loop: str
) -> None:
    (dav.directory / "taken").write_text("precious")
    (dav.directory / "running.part").write_text("another snapshot")
    for name in ("taken", "running"):
        arguments = stream(dav, auth_file, name, small_loop, "--writer", "dd")
        outcome = commands.run("ipa-snapshot", *arguments)
        assert outcome.code == 1
        assert "InvalidRequest" in outcome.error
        assert "exists" in outcome.error
    assert dav.names() == ["running.part", "taken"]
    assert (dav.directory / "taken").read_text() == "precious"
    assert (dav.directory / "running.part").read_text() == "another snapshot"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("writer", ["davfs", "dd", "stream"])
def test_an_interrupt_leaves_nothing(
    apache: Dav,
    auth_file: pathlib.Path,
    disk: disks.Disk,
    writer: str,
    number: signal.Signals,
    slow_network: None,
) -> None:
    with disks.LoopDevice(disk.path) as loop:
        arguments = stream(apache, auth_file, "image", loop.path, "--writer", writer)
        command = commands.start("ipa-snapshot", *arguments)
        wait_until_begun(apache)
        command.send_signal(number)
        outcome = commands.finish(command)
    assert outcome.code == 130, outcome.err
    assert outcome.error == "ipa-snapshot: interrupted"
    assert names_in_the_end(apache.names) == []


def test_an_interrupt_while_davfs2_uploads_leaves_nothing(
    apache: Dav, auth_file: pathlib.Path, small_disk: disks.Disk, small_loop: str,
    slow_network: None,
) -> None:  # fmt: skip
    scene = Scene(small_disk.path, apache.directory)
    arguments = stream(apache, auth_file, "image", small_loop, "--writer", "davfs")
    command = commands.start("ipa-snapshot", *arguments)
    assert command.stderr is not None
    while not command.stderr.readline().startswith("upload"):
        assert command.poll() is None
    time.sleep(1)
    command.send_signal(signal.SIGINT)
    outcome = commands.finish(command)
    assert outcome.code == 130, outcome.err
    assert names_in_the_end(apache.names) == []
    scene.assert_no_process_left()  # davfs2's daemon


def wait_until_begun(dav: Dav) -> None:
    deadline = time.monotonic() + 30
    while not _has_begun(dav.names()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)


def _has_begun(names: list[str]) -> bool:
    # A server moves by a copy: what the part was made of may be there a little longer.
    part = any(name.endswith(".part") for name in names)
    return part and not any(name.startswith("ipa-snapshot-") for name in names)


def test_a_person_sees_a_bar_on_a_terminal(tmp_path: pathlib.Path, small_disk: disks.Disk) -> None:
    (tmp_path / "images").mkdir()
    command = "%s stream file://%s/images image --device %s --writer dd" % (
        commands.path("ipa-snapshot"), tmp_path, small_disk.path,
    )  # fmt: skip
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "stream: 100%|" in done.stdout
