# SPDX-License-Identifier: Apache-2.0
"""The ramdisk's configuration is read from files and kernel parameters, and checked."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ironic_python_agent import utils as agent_utils
from oslo_config import cfg, generator

from ipa_snapshot import errors
from ipa_snapshot.extension import config
from ipa_snapshot.extension.config import StepConfig
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from tests.lab import certificates

HOME = "https://storage.example.org/snapshots"
Read = Callable[..., StepConfig]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a function that reads a drop-in file with these lines, and kernel parameters."""

    def read_from(*lines: str, kernel: dict[str, str] | None = None) -> StepConfig:
        # where the agent keeps what it has read of /proc/cmdline
        monkeypatch.setattr(agent_utils, "AGENT_PARAMS_CACHED", {"quiet": "1", **(kernel or {})})
        drop_ins = tmp_path / "ironic-python-agent.d"
        drop_ins.mkdir(exist_ok=True)
        (drop_ins / "snapshot.conf").write_text("\n".join(["[ipa_snapshot]", *lines, ""]))
        conf = cfg.ConfigOpts()
        conf(["--config-dir", str(drop_ins)])
        # The agent has parsed its files before it loads hardware managers.
        config.register(conf)
        return StepConfig.read(conf)

    return read_from


def test_a_drop_in_file_suffices(read: Read) -> None:
    found = read(
        "storage_url = " + HOME, "cacert = /etc/ca.pem", "auth_file = /etc/auth",
        "allowed_storage = https://a.example/x, nfs://filer/y",
    )  # fmt: skip
    assert found == StepConfig(
        HOME, "/etc/ca.pem", False, "/etc/auth", ("https://a.example/x", "nfs://filer/y")
    )


def test_so_do_kernel_parameters(read: Read) -> None:
    kernel = {
        "ipa-snapshot-storage-url": HOME, "ipa-snapshot-cacert": "/etc/ca.pem",
        "ipa-snapshot-auth-file": "/etc/auth",
    }  # fmt: skip
    assert read(kernel=kernel) == StepConfig(HOME, "/etc/ca.pem", False, "/etc/auth")


def test_a_kernel_parameter_cannot_change_what_a_file_says_nor_allow_more(read: Read) -> None:
    kernel = {
        "ipa-snapshot-storage-url": "https://evil.example/", "ipa-snapshot-insecure": "true",
        "ipa-snapshot-allowed-storage": "https://evil.example/",
    }  # fmt: skip
    assert read("storage_url = " + HOME, kernel=kernel) == StepConfig(HOME)


@pytest.mark.parametrize("lines", [[], ["storage_url ="], ["cacert = /etc/ca.pem"]])
def test_without_a_storage_it_says_what_to_set(read: Read, lines: list[str]) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"set storage_url in \[ipa_snapshot\]"):
        read(*lines)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["insecure = perhaps"], "insecure"),
        (["insecure = true", "cacert = /etc/ca.pem"], "exclude each other"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(
    read: Read, lines: list[str], reason: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=reason):
        read("storage_url = " + HOME, *lines)


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    path = tmp_path / "auth.yaml"
    path.touch(mode=0o600)
    path.write_text("username: machine\npassword: s3cret\n")
    return path


def test_without_a_url_the_image_goes_to_the_configured_storage(
    auth_file: Path, tmp_path: Path
) -> None:
    cacert = str(certificates.issue(tmp_path).cacert)
    settings = StepConfig(HOME + "/", cacert, False, str(auth_file))
    target = settings.target()
    assert str(Location.parse(target.url)) == HOME
    assert target.credentials == Credentials("machine", "s3cret")
    assert target.trust == Trust(cacert)
    assert "s3cret" not in repr(target)


@pytest.mark.parametrize("root", ["nfs://filer/", "filer:/", "nfs://filer:2050/"])
@pytest.mark.parametrize("as_an_argument", [False, True])
def test_an_export_s_root_is_a_storage(root: str, as_an_argument: bool) -> None:
    url = StepConfig(root).target(root if as_an_argument else None).url
    assert str(Location.parse(url)) == str(Location.parse(root))


@pytest.mark.parametrize(
    ("url", "with_account"),
    [
        (HOME + "/x", True),
        ("https://storage.example.org:443/others/x", True),
        ("https://storage.example.org:8443/others", False),
        ("http://storage.example.org/others", False),
        ("https://other.example.org/others", False),
        ("filer:/others", False),
    ],
)
def test_the_account_goes_to_its_own_server_only(
    auth_file: Path, url: str, with_account: bool
) -> None:
    allowed = (
        "https://storage.example.org/others", "https://storage.example.org:8443/others",
        "http://storage.example.org/others", "https://other.example.org/others", "filer:/others",
    )  # fmt: skip
    settings = StepConfig(HOME, auth_file=str(auth_file), allowed_storage=allowed)
    assert (settings.target(url).credentials is not None) is with_account


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"storage_url": "file:///srv"}, "directory of the ramdisk"),
        ({"storage_url": "https://u:pw@h/x"}, "must not hold credentials"),
        ({"cacert": "/does/not/exist"}, "does not exist"),
        ({"auth_file": "/does/not/exist"}, "cannot be read"),
    ],
)
def test_what_is_configured_wrongly_is_told_when_it_is_used(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=reason):
        StepConfig(**{"storage_url": HOME, **change}).target()


def test_an_auth_file_that_others_can_read_is_refused(auth_file: Path) -> None:
    os.chmod(auth_file, 0o644)
    with pytest.raises(errors.InvalidRequest, match="chmod 600"):
        StepConfig(HOME, auth_file=str(auth_file)).target()


def test_the_sample_generator_of_oslo_config_shows_all_of_it(tmp_path: Path) -> None:
    output = tmp_path / "sample.conf"
    generator.main(["--namespace", "ipa_snapshot", "--output-file", str(output)])
    sample = output.read_text()
    assert "[ipa_snapshot]" in sample
    for option in config.options({}):
        assert "#%s =" % option.name in sample
