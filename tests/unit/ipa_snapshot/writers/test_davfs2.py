# SPDX-License-Identifier: Apache-2.0
"""What davfs2 is told: the account and the authority, in files that only root may read."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ipa_snapshot import errors
from ipa_snapshot.writers import davfs2
from ipa_snapshot.writers.base import Destination
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location
from tests.lab import certificates
from tests.unit.memory_storage import MemoryStorage


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.mkdir()
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    return path


def _destination(credentials: Credentials | None, trust: Trust | None = None) -> Destination:
    location = Location.parse("https://host:8443/dir/")
    return Destination(MemoryStorage(), "image.part", location, credentials, trust or Trust())


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (Credentials("anna", "s3cret"), '"https://host:8443/dir" "anna" "s3cret"\n'),
        (Credentials("an na", 'q"\\#'), '"https://host:8443/dir" "an na" "q\\"\\\\#"\n'),
        (Credentials("bär", "pä€"), '"https://host:8443/dir" "bär" "pä€"\n'),
        (Credentials(token="t0ken"), ""),
        (None, ""),
    ],
)
def test_the_account_is_a_quoted_line_of_a_private_file(
    private: Path, cache: Path, credentials: Credentials | None, expected: str
) -> None:
    config = davfs2.write_config(private, cache, 1 << 30, _destination(credentials))
    secrets = private / "secrets"
    assert secrets.read_text(encoding="utf-8") == expected
    assert "secrets %s\n" % secrets in config.read_text()
    assert {path.stat().st_mode & 0o777 for path in (secrets, config)} == {0o600}


def test_an_account_for_digest_is_refused_where_anyone_may_ask_for_the_password() -> None:
    account = Credentials("anna", "s3cret", scheme="digest")
    destination = Destination(
        MemoryStorage(), "image.part", Location.parse("http://host/dir"), account, Trust()
    )
    with pytest.raises(errors.InvalidRequest, match="use https, or the writer 'stream'"):
        davfs2.check(destination)


def test_a_token_is_a_header(private: Path, cache: Path) -> None:
    credentials = Credentials(token='t0"ken')
    config = davfs2.write_config(private, cache, 1 << 30, _destination(credentials))
    assert 'add_header Authorization "Bearer t0\\"ken"\n' in config.read_text()


def test_the_cache_is_its_own_and_limited(private: Path, cache: Path) -> None:
    lines = davfs2.write_config(private, cache, 300 << 20, _destination(None)).read_text()
    assert "cache_dir %s\n" % cache in lines
    assert "cache_size 300\n" in lines
    assert "trust_ca_cert" not in lines


def test_the_authority_lies_where_the_daemon_may_read_it(
    private: Path, cache: Path, tmp_path: Path
) -> None:
    cacert = certificates.issue(tmp_path).cacert
    destination = _destination(None, Trust(str(cacert)))
    lines = davfs2.write_config(private, cache, 1 << 30, destination).read_text()
    assert "trust_ca_cert %s\n" % (cache / "ca.pem") in lines
    assert (cache / "ca.pem").read_text() == cacert.read_text()


# In a PID namespace of its own, whose ids nobody else takes: a process is seen, ends, and the
# daemon gets its id.
_REUSE = """
import pathlib, subprocess, sys, time, psutil
from ipa_snapshot.writers.davfs2 import UploadWatch

mount_point, daemon = map(pathlib.Path, sys.argv[1:])
earlier = subprocess.Popen(["sleep", "60"])
list(psutil.process_iter())
earlier.kill(); earlier.wait()
time.sleep(0.1)  # the kernel counts the time of a start in hundredths of a second
pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(earlier.pid - 1))
serving = subprocess.Popen([daemon, "60", mount_point], executable=daemon)
assert serving.pid == earlier.pid
try:
    with UploadWatch(None) as watch:
        watch.attach(mount_point)
        raise InterruptedError
except InterruptedError:
    serving.wait(5)  # it ended, or this raises
"""


def test_a_daemon_with_the_id_of_an_earlier_process_is_ended_too(tmp_path: Path) -> None:
    # sleep(1) adds up its arguments, so that "0s" stands for a mount point
    daemon = shutil.copy(shutil.which("sleep") or "sleep", tmp_path / "mount.davfs")
    subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", _REUSE,
         "0s", daemon],
        check=True, timeout=60,
    )  # fmt: skip
