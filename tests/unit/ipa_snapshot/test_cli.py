# SPDX-License-Identifier: Apache-2.0
"""The command ``ipa-snapshot``: its exit codes, its one line of error, and its JSON."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipa_snapshot import cli
from tests.lab import disks

MIB = 1024 * 1024
pytestmark = [
    pytest.mark.usefixtures("logging_restored"),
    pytest.mark.filterwarnings("ignore::pyparsing.PyparsingDeprecationWarning"),
]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def three_disks(put_on_path: Callable[[str, str], None]) -> None:
    rows = [
        {
            "kname": kname, "type": "disk", "size": size << 30, "model": model, "rota": False,
            "serial": serial, "wwn": None, "log-sec": 512, "tran": None,
        }
        for kname, size, model, serial in (
            ("sdx", 20, "BIG", "SN-X"), ("sdy", 8, "SMALL", "SN-Y"), ("sdz", 1, "TINY", None),
        )
    ]  # fmt: skip
    listing = json.dumps({"blockdevices": rows})
    put_on_path("lsblk", "cat <<'END'\n%s\nEND\n" % listing)


@pytest.fixture
def no_disks(put_on_path: Callable[[str, str], None]) -> None:
    put_on_path("lsblk", "echo '{\"blockdevices\": []}'")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["devices", "extra"],
        ["devices", "--hint", "model"],
        ["devices", "--hint", "=x"],
        ["devices", "--hint", "model="],
        ["stream"],
        ["stream", "file:///tmp"],
        ["stream", "file:///tmp", "image", "--device", "/dev/sda", "--hint", "size=8"],
        ["stream", "file:///tmp", "image", "--writer", "partclone"],
        ["stream", "file:///tmp", "image", "--format", "vmdk"],
        ["stream", "file:///tmp", "image", "--compression", "lzma"],
        ["stream", "file:///tmp", "image", "--cacert", "ca.pem", "--insecure"],
        ["stream", "file:///tmp", "image", "--password", "s3cret"],
        # not an abbreviation of --auth-file, which would quote the secret
        ["stream", "file:///tmp", "image", "--auth", "s3cret"],
    ],
)
def test_a_wrong_usage_exits_with_2_and_shows_the_usage(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("usage: ipa-snapshot")


def _json(argv: list[str], capsys: Capture) -> tuple[int, dict[str, Any]]:
    code = cli.main([*argv, "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out)


@pytest.mark.usefixtures("three_disks")
@pytest.mark.parametrize(
    ("hints", "root"),
    [
        (["--hint", "model=BIG"], "/dev/sdx"),
        (["--hint", "size=>= 8", "--hint", "serial=sn-y"], "/dev/sdy"),
        (["--hint", "size=< 8"], "/dev/sdz"),
        (["--hint", "model=NONE"], None),
        ([], None),
    ],
)
def test_devices_names_the_root_device_and_the_reason(
    hints: list[str], root: str | None, capsys: Capture
) -> None:
    code, result = _json(["devices", *hints], capsys)
    assert code == 0
    assert [device["name"] for device in result["devices"]] == ["/dev/sdx", "/dev/sdy", "/dev/sdz"]
    assert [device["name"] for device in result["devices"] if device["root"]] == [
        name for name in [root] if name
    ]
    assert result["root_device"] == root
    assert result["reason"]


@pytest.mark.usefixtures("three_disks")
def test_devices_is_a_table_for_people(capsys: Capture) -> None:
    assert cli.main(["devices", "--hint", "size=8"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "   NAME      SIZE      SERIAL  WWN  MODEL",
        "   /dev/sdx  20.0 GiB  SN-X    -    BIG",
        "*  /dev/sdy  8.00 GiB  SN-Y    -    SMALL",
        "   /dev/sdz  1.00 GiB  -       -    TINY",
        "root device: /dev/sdy: the first that meets the root device hints",
    ]


@pytest.mark.usefixtures("three_disks")
def test_without_hints_devices_says_that_two_may_be_it(capsys: Capture) -> None:
    assert cli.main(["devices"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("no root device: 2 disks may be the root device")
    )


@pytest.mark.parametrize("hint", ["colour=red", "size=big", "model==", "size=<in> 8"])
@pytest.mark.parametrize("command", [["devices"], ["stream", "file:///tmp", "image"]])
@pytest.mark.usefixtures("three_disks")
def test_a_bad_hint_is_refused_in_one_line(command: list[str], hint: str, capsys: Capture) -> None:
    assert cli.main([*command, "--hint", hint]) == 1
    out, err = capsys.readouterr()
    # what comes before it is a warning that udev does not know these disks
    last = err.splitlines()[-1]
    assert out == ""
    assert last.startswith("ipa-snapshot: InvalidRequest: ")
    assert hint.partition("=")[0] in last


@pytest.mark.usefixtures("no_disks")
def test_a_machine_without_disks_has_no_root_device(capsys: Capture) -> None:
    code, result = _json(["devices"], capsys)
    assert (code, result["devices"], result["root_device"]) == (0, [], None)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir()
    return path


def test_stream_of_an_image_file_prints_one_json_object(
    make_disk: Callable[..., Path], directory: Path, capsys: Capture
) -> None:
    disk = make_disk(MIB, MIB)
    argv = ["stream", "file://%s" % directory, "image.qcow2", "--device", str(disk)]
    code, result = _json(argv, capsys)
    image = directory / "image.qcow2"
    assert code == 0
    assert result["checksum"] == {
        "algorithm": "sha512", "value": hashlib.sha512(image.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert result["device"]["name"] == str(disk)
    disks.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, image)


def test_stream_of_a_loop_device_tells_people_what_was_stored(
    make_disk: Callable[..., Path], directory: Path, capsys: Capture
) -> None:
    with disks.LoopDevice(make_disk()) as loop:
        code = cli.main(
            ["stream", "file://%s" % directory, "image", "--device", loop.path, "--writer", "dd"]
        )
    out, err = capsys.readouterr()
    assert code == 0
    assert out.startswith("image: raw, 1.00 MiB, virtual size 1.00 MiB, ")
    assert (
        out.splitlines()[1]
        == "sha512 " + hashlib.sha512((directory / "image").read_bytes()).hexdigest()
    )
    assert "stream: " in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--device", "/dev/no-such-disk"], "DeviceNotFound"),
        (["--device", "{disk}", "--expected-serial", "x"], "DeviceNotFound"),
        (["--device", "{disk}", "--auth-file", "/no/such/file"], "InvalidRequest"),
        (["--device", "{disk}", "--cacert", "/no/such/file"], "InvalidRequest"),
        (["--any-root"], "DeviceNotFound"),
        ([], "DeviceNotFound"),
    ],
)
@pytest.mark.usefixtures("no_disks")
def test_a_failure_is_one_line_and_with_json_an_object(
    make_disk: Callable[..., Path], directory: Path, options: list[str], word: str,
    capsys: Capture,
) -> None:  # fmt: skip
    disk = str(make_disk())
    argv = ["stream", "file://%s" % directory, "image", *(o.format(disk=disk) for o in options)]
    assert cli.main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("ipa-snapshot: %s: " % word)
    code, result = _json(argv, capsys)
    assert (code, result["error"]["type"]) == (1, word)
    assert list(directory.iterdir()) == []


@pytest.mark.usefixtures("no_disks")
def test_a_bad_name_is_refused_before_the_disk_is_looked_for(capsys: Capture) -> None:
    assert cli.main(["stream", "file:///tmp", "../image"]) == 1
    assert "InvalidRequest: the image name '../image'" in capsys.readouterr().err


def test_a_disk_that_a_link_names_has_its_serial(
    make_disk: Callable[..., Path], directory: Path, tmp_path: Path, capsys: Capture,
    put_on_path: Callable[[str, str], None],
) -> None:  # fmt: skip
    with disks.LoopDevice(make_disk()) as loop:
        row = {
            "kname": Path(loop.path).name, "type": "disk", "size": MIB, "model": None,
            "rota": False, "serial": "SN", "wwn": None, "log-sec": 512, "tran": None,
        }  # fmt: skip
        put_on_path("lsblk", "echo '%s'" % json.dumps({"blockdevices": [row]}))
        (tmp_path / "by-id").symlink_to(loop.path)
        argv = ["stream", "file://%s" % directory, "image", "--device", str(tmp_path / "by-id")]
        code, result = _json([*argv, "--expected-serial", "SN"], capsys)
    assert code == 0
    assert (result["device"]["name"], result["device"]["serial"]) == (loop.path, "SN")


def test_an_image_file_needs_no_list_of_disks(
    make_disk: Callable[..., Path], directory: Path, put_on_path: Callable[[str, str], None]
) -> None:
    put_on_path("lsblk", "exit 1")
    argv = ["stream", "file://%s" % directory, "image", "--device", str(make_disk())]
    assert cli.main(argv) == 0
    assert (directory / "image").exists()


def test_a_mounted_device_is_refused(tmp_path: Path, directory: Path, capsys: Capture) -> None:
    image = tmp_path / "ext4.raw"
    image.write_bytes(bytes(8 * MIB))
    disks.run("mkfs.ext4", "-q", image)
    with disks.LoopDevice(image) as loop, disks.mounted(loop.path, "ext4") as where:
        assert cli.main(["stream", "file://%s" % directory, "image", "--device", loop.path]) == 1
    err = capsys.readouterr().err
    assert "ipa-snapshot: DeviceInUse: %s is in use (mounted on %s)" % (loop.path, where) in err
