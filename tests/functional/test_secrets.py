# SPDX-License-Identifier: Apache-2.0
"""During a whole snapshot no secret is in an argument, an environment, a log or a result."""

import base64
import contextlib
import json
import os
import pathlib
import secrets
import threading
from typing import Self

import pytest

from tests.functional import commands
from tests.functional.test_whole_way import token_file
from tests.lab import certificates, disks
from tests.lab.agent import Agent, FakeDisk
from tests.lab.apache import Apache
from tests.lab.glance import Glance

OPENSTACK = "OS_PASSWORD"


class ProcessWatch:
    """Reads the arguments and the environments of all processes, over and over."""

    def __init__(self) -> None:
        self.arguments: set[bytes] = set()
        self.environments: dict[bytes, set[bytes]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def programs(self) -> set[str]:
        """The names of the programs that were seen."""
        return {os.path.basename(one.partition(b"\0")[0]).decode() for one in self.arguments}

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it has ended
                    arguments = (process / "cmdline").read_bytes()
                    self.arguments.add(arguments)
                    found = self.environments.setdefault(arguments, set())
                    found.add((process / "environ").read_bytes())


@pytest.mark.parametrize(
    ("scheme", "writer", "programs"),
    [
        # of the short ones those that are met
        ("basic", "stream", {"sfdisk", "blkid", "xfs_db", "e2image", "dumpe2fs"}),
        ("digest", "davfs", {"mount.davfs", "qemu-img"}),
    ],
)
def test_no_secret_is_seen_by_who_looks_at_processes_or_reads_logs(
    scheme: str, writer: str, programs: set[str], disk: disks.Disk, fake_disk: FakeDisk,
    glance: Glance, tmp_path: pathlib.Path,
) -> None:  # fmt: skip
    password, openstack = secrets.token_urlsafe(20), secrets.token_urlsafe(20)
    account = tmp_path / "auth.yaml"
    account.touch(mode=0o600)
    account.write_text("{username: snapshot, password: %s, scheme: %s}" % (password, scheme))
    key = tmp_path / "snapshot-key.pem"
    key.touch(mode=0o600)
    disks.run("openssl", "genpkey", "-algorithm", "X25519", "-out", key)
    more = ["--encryption-key-file", key] if writer == "stream" else []
    image = glance.connection().image.create_image(name="secrets", allow_duplicates=True)
    certs = certificates.issue(tmp_path)
    with (
        Apache(tmp_path / "store", "snapshot", password, digest=scheme == "digest") as store,
        Agent([fake_disk], tls=(certs.cert, certs.key)) as agent,
        ProcessWatch() as watch,
    ):
        outcome = commands.run(
            "ironic-snapshot", "take", "--agent-url", agent.url,
            "--agent-token-file", token_file(tmp_path, agent.token),
            "--agent-cacert", certs.cacert, "--storage-url", store.url, "--auth-file", account,
            "--cacert", store.cacert, "--image-ref", image.id, "--writer", writer, *more,
            "--json", "--debug",
            env={
                "OS_CLIENT_CONFIG_FILE": str(glance.clouds_yaml(tmp_path / "clouds.yaml")),
                "OS_CLOUD": "lab", OPENSTACK: openstack,
            },
        )  # fmt: skip
        logs = [path.read_text(errors="replace") for path in agent.state.glob("*.log")]
    assert outcome.code == 0, outcome.err
    assert programs & watch.programs, watch.programs
    assert "Running " in "".join(logs)  # each program's arguments

    basic = base64.b64encode(("snapshot:%s" % password).encode()).decode()
    account_forms = [password, basic, key.read_text().splitlines()[1]]
    in_arguments = b"\n".join(watch.arguments).decode(errors="replace")
    for secret in (*account_forms, agent.token, openstack):
        assert secret not in in_arguments
        assert secret not in outcome.err
        assert secret not in json.dumps(outcome.json)
    for arguments, environments in watch.environments.items():
        seen = b"\n".join(environments).decode(errors="replace")
        assert not any(secret in seen for secret in (*account_forms, agent.token)), arguments
        # which the caller put there, and no program that is started needs
        assert openstack not in seen or b"ironic-snapshot" in arguments, arguments
    for log in logs:  # the agent logs its own token: see docs/security.rst
        assert not any(secret in log for secret in account_forms)
