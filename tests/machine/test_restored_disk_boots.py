# SPDX-License-Identifier: Apache-2.0
"""What a snapshot is for: deployed to another machine it boots there, and is the same."""

import json
import mmap
import pathlib
import re
import secrets
import struct
from collections.abc import Callable, Mapping

import pytest

import conductor_client
from conductor_client.delivery import Snapshot
from conductor_client.flow import CaptureOptions
from snapshot_core.credentials import Credentials, Trust
from tests.lab import disks
from tests.lab.apache import Apache
from tests.lab.disk_maker import GIB
from tests.machine import boot_report, bootable_disk, debian_root, deployment
from tests.machine.bootable_disk import BootableDisk
from tests.machine.conftest import Storage
from tests.machine.machine import STORAGE, Drive, Machine, Uefi, boot_from_disk
from tests.machine.ramdisk import Ramdisk

# Emulated: what takes seconds on a machine takes minutes here, and three of them are booted.
pytestmark = pytest.mark.timeout(2400)
_PATIENCE_S = 900
_TARGET_SIZE = 5 * GIB


@pytest.mark.parametrize(
    ("make", "with_uefi"),
    [(bootable_disk.make_bios, False), (bootable_disk.make_uefi, True)],
    ids=["bios-ext4", "uefi-lvm-xfs"],
)
def test_a_snapshot_deployed_to_a_machine_with_a_larger_disk_boots_and_is_the_same(
    built: Ramdisk, debian: pathlib.Path, storage: Storage, tmp_path: pathlib.Path,
    make: Callable[[pathlib.Path, pathlib.Path], BootableDisk], with_uefi: bool,
) -> None:  # fmt: skip
    source = make(tmp_path / "source.raw", debian)
    images = tmp_path / "images"
    images.mkdir()
    target = Drive(tmp_path / "target.raw", "TARGET-1")
    with target.path.open("wb") as blank:
        blank.truncate(_TARGET_SIZE)
    uefi = Uefi.new(tmp_path / "variables.fd") if with_uefi else None

    snapshot = capture(built, source, storage, images / "image")
    deploy(built, snapshot, images, target, uefi)
    as_deployed = identities(target.path, source)
    console = boot_from_disk(built, target, source.identity.login_prompt, uefi=uefi)

    assert boot_report.read(console) == source.identity
    assert as_deployed == identities(source.path, source)
    assert backup_table_at(target.path) == _TARGET_SIZE - 512
    assert "No problems found" in disks.run("sgdisk", "--verify", target.path)
    assert has_junk(source.path)
    assert not has_junk(target.path)
    if with_uefi:  # not by the fallback: the agent has told the firmware of the loader
        assert re.search(r'starting Boot\w+ "ironic1" from HD\(1,GPT', console)


@pytest.fixture(scope="session")
def debian() -> pathlib.Path:
    """Debian as an archive; building it takes the network, which is not here."""
    found = debian_root.cached()
    assert found is not None, "there is no Debian for the disks: run make test-machine"
    return found


def capture(
    ramdisk: Ramdisk, source: BootableDisk, storage: Storage, image: pathlib.Path
) -> Snapshot:
    """Take a snapshot of the machine with this disk, as the conductor's side does."""
    drive = Drive(source.path, bootable_disk.SERIAL)
    with Machine(ramdisk, [drive], secrets.token_urlsafe(32)) as machine:
        snapshot = conductor_client.take_snapshot(
            agent_url=machine.url, agent_token=machine.token, storage_url=storage.url,
            image_ref=image.as_uri(), trust=Trust(str(storage.cacert)), timeout_s=_PATIENCE_S,
            credentials=Credentials(storage.username, storage.password),
            options=CaptureOptions(expected_serial=bootable_disk.SERIAL),
        )  # fmt: skip
    assert snapshot.captured.raw["writer"] == "stream"
    return snapshot


def deploy(
    ramdisk: Ramdisk, snapshot: Snapshot, images: pathlib.Path, target: Drive, uefi: Uefi | None
) -> None:
    """Write the snapshot to another machine's disk, and switch that off."""
    with (
        Apache(images, None, tls=False) as server,
        # The agent has the whole image in its memory, before it writes it.
        Machine(
            ramdisk, [target], secrets.token_urlsafe(32), uefi=uefi, memory_mib=4096
        ) as machine,
    ):
        url = f"http://{STORAGE}:{server.port}/snapshots/image"
        deployment.deploy(machine, url, snapshot.sha512, uefi=uefi is not None)


def identities(path: pathlib.Path, disk: BootableDisk) -> Mapping[str, object]:
    """Return by what a system finds its partitions and file systems; an ESP with its files."""
    table = json.loads(disks.run("sfdisk", "--json", path))["partitiontable"]
    found = {"disk": table["id"]}
    for row, part in zip(table["partitions"], disk.partitions, strict=True):
        del row["node"]
        found[part.name] = row
    for part in (*disk.partitions, disk.root):
        if part.fs:
            place = ("--offset", str(part.offset), "--size", str(part.size))
            found["in " + part.name] = disks.run(
                "blkid", "--probe", *place, "-s", "UUID", "-o", "value", path
            )
        if part.fs == "vfat":
            found["files of " + part.name] = disks.checksums(path, part)
    return found


def backup_table_at(path: pathlib.Path) -> int:
    """Return where the partition table's backup lies, by both of its headers."""
    with path.open("rb") as disk:
        disk.seek(512)
        signature, other = struct.unpack("<8s24xQ", disk.read(40))
        assert signature == b"EFI PART"
        disk.seek(other * 512)
        signature, itself = struct.unpack("<8s16xQ", disk.read(32))
        assert (signature, itself) == (b"EFI PART", other)
    return int(other) * 512


def has_junk(path: pathlib.Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(bootable_disk.JUNK) >= 0
