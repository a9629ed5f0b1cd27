# SPDX-License-Identifier: Apache-2.0
"""The section [snapshot] says how the storage is reached, and by whom."""

from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from conductor_client import errors
from conductor_client.ironic import config
from snapshot_core.credentials import Credentials
from tests.lab import certificates

SAMPLE = Path(__file__).parents[4] / "docs/conductor.conf.sample"


def settings(**values: Any) -> config.Settings:
    conf = cfg.ConfigOpts()
    conf.register_opt(cfg.StrOpt("state_path", default="/var/lib/ironic"))
    config.register(conf)
    conf(args=[], default_config_files=[])
    for name, value in values.items():
        conf.set_override(name, value, group=config.GROUP)
    return config.Settings.read(conf)


@pytest.fixture
def accounts(tmp_path: Path) -> dict[str, str]:
    """Auth files of two accounts, by their names."""
    paths = {}
    for name in ("conductor", "machine"):
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text("{username: %s, password: secret of the %s}" % (name, name))
        paths[name] = str(path)
    return paths


def test_what_is_not_said_has_safe_defaults() -> None:
    found = settings()
    assert found.work_dir == "/var/lib/ironic/snapshots"
    assert found.writer == "auto"
    assert found.min_free == 10 * 1024**3
    assert (found.max_concurrent_snapshots, found.max_concurrent_uploads) == (8, 4)


def test_without_a_storage_nothing_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONIC_SNAPSHOT_STORAGE_URL", "https://storage.example/of-a-user")
    with pytest.raises(errors.InvalidRequest, match=r"set storage_url in \[snapshot\]"):
        settings().access()


def test_this_side_and_the_agent_have_accounts_of_their_own(accounts: dict[str, str]) -> None:
    found = settings(
        storage_url="https://storage.example/images",
        storage_auth_file=accounts["conductor"],
        agent_auth_file=accounts["machine"],
    )
    assert found.access().credentials == Credentials("conductor", "secret of the conductor")
    assert found.agent_access("a-node", "an-image") == {
        "url": "https://storage.example/images/a-node",
        "auth": {"username": "machine", "password": "secret of the machine"},
    }


def test_one_account_serves_both_where_there_is_no_other(accounts: dict[str, str]) -> None:
    found = settings(
        storage_url="https://storage.example/images", storage_auth_file=accounts["conductor"]
    )
    assert found.agent_access("a-node", "an-image")["auth"]["username"] == "conductor"


def test_a_storage_without_accounts_needs_none() -> None:
    found = settings(storage_url="nfs://storage.example/export")
    assert found.access().credentials is None
    assert found.agent_access("a-node", "an-image") == {
        "url": "nfs://storage.example/export/a-node"
    }


def test_with_a_key_each_snapshot_has_a_token_of_its_own(
    accounts: dict[str, str], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("0123456789abcdef" * 4 + "\n")
    found = settings(
        storage_url="https://storage.example/images",
        storage_auth_file=accounts["conductor"],
        storage_token_key_file=str(key),
    )
    tokens = {
        found.agent_access(node, image)["auth"]["token"].split("-")[2]
        for node in ("node1", "node2")
        for image in ("image1", "image2")
    }
    assert len(tokens) == 4


def test_a_key_and_an_account_exclude_each_other(accounts: dict[str, str]) -> None:
    found = settings(
        storage_url="https://storage.example/images",
        agent_auth_file=accounts["machine"],
        storage_token_key_file=accounts["machine"],
    )
    with pytest.raises(errors.InvalidRequest, match="take one out"):
        found.check()


def test_a_key_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("secret")
    found = settings(storage_url="https://storage.example/images", storage_token_key_file=str(key))
    with pytest.raises(errors.InvalidRequest, match="32 to 128 letters and digits"):
        found.check()


def test_a_key_of_another_kind_is_told_before_anything_is_started(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("secret")
    found = settings(storage_url="https://storage.example/images", encryption_key_file=str(key))
    with pytest.raises(errors.InvalidRequest, match="not a private key"):
        found.check()


def test_the_agent_gets_the_authorities_themselves(tmp_path: Path) -> None:
    authorities = certificates.issue(tmp_path).cacert
    found = settings(storage_url="https://storage.example/images", storage_ca=str(authorities))
    assert found.access().trust.cacert == str(authorities)
    assert found.agent_access("a-node", "an-image")["cacert"] == authorities.read_text()


def test_the_sample_has_each_option_with_its_default() -> None:
    sample = SAMPLE.read_text(encoding="utf-8")
    assert "[%s]\n" % config.GROUP in sample
    for option in config.OPTIONS:
        shown = "<None>" if option.default is None else option.default
        assert "\n#%s = %s\n" % (option.name, shown) in sample
        assert sample.count("\n#%s = " % option.name) == 1
