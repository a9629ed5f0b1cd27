# SPDX-License-Identifier: Apache-2.0
"""What the tests with a machine share: the ramdisk, a disk, and a storage that both sides reach."""

import pathlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import certificates, disks, namespaces, processes
from tests.lab.apache import Apache
from tests.machine import ramdisk, tempting_disk
from tests.machine.machine import STORAGE, Drive, Machine

# Now, because no thread runs yet: neither servers nor a machine's network are for the host.
namespaces.enter()


@dataclass(frozen=True)
class Storage:
    """A WebDAV storage, by the name that it has here and in the machine."""

    url: str
    cacert: pathlib.Path
    directory: pathlib.Path
    username: str = "snapshot"
    password: str = "secret"


@pytest.fixture(scope="session")
def built() -> ramdisk.Ramdisk:
    """The ramdisk of this tree; building it takes the network, which is not here."""
    found = ramdisk.cached()
    assert found is not None, "there is no ramdisk of this tree: run make ramdisk"
    return found


@pytest.fixture(scope="session")
def temptations(tmp_path_factory: pytest.TempPathFactory) -> tempting_disk.TemptingDisk:
    """A disk with all that a booting system likes to touch."""
    return tempting_disk.make(tmp_path_factory.mktemp("disk") / "disk.raw")


@pytest.fixture(scope="session")
def machine(
    built: ramdisk.Ramdisk, temptations: tempting_disk.TemptingDisk
) -> Iterator[tuple[Machine, str]]:
    """The machine with this disk, and the disk's digest from before it was switched on."""
    drive = Drive(temptations.path, tempting_disk.SERIAL)
    before = tempting_disk.digest(temptations.path)
    with Machine(built, [drive], secrets.token_urlsafe(32)) as running:
        yield running, before


@pytest.fixture
def storage(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A real Apache with TLS and Basic authentication."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {STORAGE}\n")
    namespaces.cover("/etc/hosts", str(hosts))
    try:
        with _NamedApache(tmp_path / "store", Storage.username, Storage.password) as server:
            assert server.cacert is not None
            url = f"https://{STORAGE}:{server.port}/snapshots"
            yield Storage(url, server.cacert, server.document_root)
    finally:
        # A file that is gone, as that of a test that passed, cannot be covered again.
        disks.run("umount", "/etc/hosts")


class _NamedApache(Apache):
    def _prepare(self) -> processes.Server:
        server = super()._prepare()
        certificates.issue(self.state, STORAGE, "127.0.0.1")
        return server
