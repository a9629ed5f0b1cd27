# SPDX-License-Identifier: Apache-2.0
"""The element's hook that configures a ramdisk, run on a copy of this machine's /etc."""

import pathlib
import stat
import subprocess

import pytest
from oslo_config import cfg

from ipa_snapshot.extension.config import StepConfig, register
from tests.lab import disks

_HOOK = pathlib.Path(__file__).parents[2] / (
    "dib-elements/ipa-snapshot/post-install.d/85-ipa-snapshot"
)
# $0 is where what is written goes, $1 what the host has laid out, $2 the hook; the rest is missing.
_AS_IN_A_CHROOT = """
mount -t overlay -o lowerdir=/etc,upperdir=$0/etc,workdir=$0/work overlay /etc
mkdir -p $0/tmp/in_target.d
cp -r $1 $0/tmp/in_target.d/ipa-snapshot
hook=$(cat $2)
rm -rf "${@:3}"
mount --bind $0/tmp /tmp
exec bash -c "$hook"
"""


@pytest.fixture
def laid_out(tmp_path: pathlib.Path) -> pathlib.Path:
    """What the hook of the build host has laid out."""
    where = tmp_path / "ipa-snapshot"
    where.mkdir()
    (where / "ca.pem").write_text("(an authority)")
    (where / "account.yaml").write_text("username: machine\npassword: secret\n")
    return where


def configured(url: str, laid_out: pathlib.Path, *missing: str) -> pathlib.Path:
    """Run the hook where these files are missing, and return the /etc that it has written."""
    root = laid_out.parent / "root"
    for name in ("etc", "work"):
        (root / name).mkdir(parents=True)
    command = ["env", "DIB_IPA_SNAPSHOT_STORAGE_URL=" + url, "unshare", "--mount"]
    disks.run(*command, "bash", "-euc", _AS_IN_A_CHROOT, root, laid_out, _HOOK, *missing)
    return root / "etc"


def test_the_agent_reads_what_the_variables_say(laid_out: pathlib.Path) -> None:
    etc = configured("https://storage.example.org/snap$hots", laid_out)

    conf = cfg.ConfigOpts()
    register(conf)
    conf(["--config-dir", str(etc / "ironic-python-agent.d")], project="ironic-python-agent")

    assert StepConfig.read(conf) == StepConfig(
        "https://storage.example.org/snap$hots",
        cacert="/etc/ipa-snapshot/ca.pem",
        auth_file="/etc/ipa-snapshot/account.yaml",
    )
    assert (etc / "ipa-snapshot/ca.pem").read_text() == "(an authority)"
    for name in ("ironic-python-agent.d/ipa-snapshot.conf", "ipa-snapshot/account.yaml"):
        assert stat.S_IMODE((etc / name).stat().st_mode) == 0o600


def test_a_ramdisk_without_variables_has_neither_a_storage_nor_an_account(
    tmp_path: pathlib.Path,
) -> None:
    nothing = tmp_path / "ipa-snapshot"
    nothing.mkdir()

    etc = configured("", nothing)

    config = (etc / "ironic-python-agent.d/ipa-snapshot.conf").read_text()
    assert config == "[ipa_snapshot]\n"
    assert list((etc / "ipa-snapshot").iterdir()) == []


@pytest.mark.parametrize("missing", [
    pytest.param([], id="debian"),
    pytest.param(["/etc/mdadm"], id="red-hat"),
])  # fmt: skip
def test_mdadm_takes_the_configuration(laid_out: pathlib.Path, missing: list[str]) -> None:
    etc = configured("", laid_out, *missing)
    for name in ("mdadm.conf", "mdadm/mdadm.conf"):
        command = ["mdadm", "--assemble", "--scan", "--config", str(etc / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Unknown" not in done.stderr
        assert "No arrays found" in done.stderr + done.stdout
