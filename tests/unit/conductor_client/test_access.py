# SPDX-License-Identifier: Apache-2.0
"""How the storage is named: by options, or else by the environment."""

from pathlib import Path

import pytest

from conductor_client import errors
from conductor_client.access import StorageAccess
from snapshot_core.credentials import Credentials
from tests.lab import certificates


@pytest.fixture
def auth_file(tmp_path: Path) -> str:
    path = tmp_path / "auth.yaml"
    path.touch(mode=0o600)
    path.write_text("token: s3cret")
    return str(path)


def test_the_environment_is_used_where_no_option_is_given(auth_file: str, tmp_path: Path) -> None:
    cacert = certificates.issue(tmp_path).cacert
    environment = {
        "IRONIC_SNAPSHOT_STORAGE_URL": "https://storage/snapshots",
        "IRONIC_SNAPSHOT_AUTH_FILE": auth_file,
        "IRONIC_SNAPSHOT_CACERT": str(cacert),
    }
    access = StorageAccess.of(environment=environment)
    assert str(access.location) == "https://storage/snapshots"
    assert (access.credentials, access.trust.cacert) == (Credentials(token="s3cret"), str(cacert))
    access = StorageAccess.of("https://other/", insecure=True, environment=environment)
    assert str(access.location) == "https://other"
    assert (access.trust.insecure, access.trust.cacert) == (True, None)
    assert "s3cret" not in repr(access)


def test_a_storage_must_be_named() -> None:
    with pytest.raises(errors.InvalidRequest, match="set IRONIC_SNAPSHOT_STORAGE_URL"):
        StorageAccess.of(environment={})
