# SPDX-License-Identifier: Apache-2.0
"""Which devices are listed: with this machine's lsblk, and with one that says what is wanted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipa_snapshot import errors
from ipa_snapshot.devices.listing import list_candidates
from tests.lab import disks

ROW = {
    "kname": "sdy", "type": "disk", "size": 8589934592, "model": "ST8000 DM004", "rota": True,
    "serial": "ZR1", "wwn": "0x5000c500a1b2c3d4", "log-sec": 512, "tran": "sata",
}  # fmt: skip


@pytest.fixture
def fake_lsblk(put_on_path: Callable[[str, str], None]) -> Callable[..., None]:
    def fake(*rows: dict[str, Any]) -> None:
        listing = json.dumps({"blockdevices": [{**ROW, **row} for row in rows]})
        put_on_path("lsblk", "cat <<'END'\n%s\nEND\n" % listing)

    return fake


def test_this_machine_s_disks_are_listed_without_loop_and_ram_devices(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1024 * 1024))
    with disks.LoopDevice(image) as loop:
        candidates = list_candidates()
        found = json.loads(disks.run("lsblk", "-bJ", "-o", "NAME,TYPE,SIZE", "--nodeps"))
    names = [device.name for device in candidates]
    assert loop.path not in names
    assert not [name for name in names if "loop" in name or "ram" in name]
    assert {(device.name, device.size) for device in candidates} == {
        ("/dev/" + row["name"], row["size"])
        for row in found["blockdevices"]
        if row["type"] == "disk" and row["size"] and "ram" not in row["name"]
    }


def test_what_lsblk_says_is_told(fake_lsblk: Callable[..., None]) -> None:
    fake_lsblk({"log-sec": 4096})
    (device,) = list_candidates()
    assert (device.name, device.size, device.logical_sector_size) == ("/dev/sdy", 8 << 30, 4096)
    assert (device.model, device.rotational, device.tran) == ("ST8000 DM004", True, "sata")
    assert (device.serials, device.wwns) == (("ZR1",), ("0x5000c500a1b2c3d4",))
    assert (device.vendor, device.hctl, device.by_path) == (None, None, None)


def test_what_lsblk_does_not_know_is_unknown(fake_lsblk: Callable[..., None]) -> None:
    fake_lsblk({"model": None, "serial": None, "wwn": None, "tran": None, "rota": False})
    (device,) = list_candidates()
    assert (device.model, device.serials, device.wwns) == (None, (), ())
    assert (device.tran, device.rotational) == (None, False)


def test_numbers_may_be_texts_as_older_versions_print_them(
    fake_lsblk: Callable[..., None],
) -> None:
    fake_lsblk({"size": "8589934592", "rota": "0", "log-sec": "512"})
    (device,) = list_candidates()
    assert (device.size, device.rotational, device.logical_sector_size) == (8 << 30, False, 512)


@pytest.mark.parametrize(
    ("row", "listed"),
    [
        ({"type": "disk"}, True),
        ({"type": "mpath", "kname": "dm-0"}, True),
        ({"type": "raid1", "kname": "md0"}, True),
        ({"type": "raid10", "kname": "md127"}, True),
        ({"type": "part", "kname": "sdy1"}, False),
        ({"type": "lvm", "kname": "dm-1"}, False),
        ({"type": "crypt", "kname": "dm-2"}, False),
        ({"type": "rom", "kname": "sr0"}, False),
        ({"type": "loop", "kname": "loop0"}, False),
        ({"type": "md", "kname": "md0p1"}, False),
        ({"type": None}, False),
        ({"kname": "fd0"}, False),
        ({"kname": "ram0"}, False),
        ({"kname": "zram0"}, False),
        ({"size": 0}, False),
        ({"size": None}, False),
        ({"size": "0"}, False),
    ],
)
def test_only_what_may_be_a_root_device_is_listed(
    fake_lsblk: Callable[..., None], row: dict[str, Any], listed: bool
) -> None:
    fake_lsblk(row)
    assert bool(list_candidates()) == listed


def test_a_device_behind_two_others_is_listed_once_and_the_order_is_kept(
    fake_lsblk: Callable[..., None],
) -> None:
    fake_lsblk({"kname": "sdz"}, {"kname": "md7", "type": "raid1"}, {"kname": "sdy"},
               {"kname": "md7", "type": "raid1"})  # fmt: skip
    assert [device.name for device in list_candidates()] == ["/dev/sdz", "/dev/md7", "/dev/sdy"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no permission' >&2; exit 1", "no permission"),
        ("echo nonsense", "cannot be listed"),
        ("echo '{}'", "cannot be listed"),
    ],
)
def test_a_listing_that_fails_is_told(
    put_on_path: Callable[[str, str], None], script: str, reason: str
) -> None:
    put_on_path("lsblk", script)
    with pytest.raises(errors.DeviceNotFound, match=reason):
        list_candidates()
