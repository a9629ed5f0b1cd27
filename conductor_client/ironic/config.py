# SPDX-License-Identifier: Apache-2.0
"""The section ``[snapshot]`` of Ironic's configuration."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from conductor_client import errors
from conductor_client.access import StorageAccess
from conductor_client.agent import storage_params
from conductor_client.ironic import token
from snapshot_core.credentials import Credentials
from snapshot_core.encryption import PrivateKey

GROUP = "snapshot"

OPTIONS = [
    cfg.StrOpt(
        "storage_url",
        help="The intermediate storage, as the conductors and the ramdisks reach it: "
        "https://host/collection, or nfs://host/export. Required.",
    ),
    cfg.StrOpt(
        "storage_ca",
        help="A PEM file with the authorities that verify the storage's certificate, on this "
        "side and in the ramdisks; by default those of each system.",
    ),
    cfg.StrOpt(
        "storage_auth_file",
        help="A YAML or JSON file, of mode 600, with username and password, or token, of an "
        "account that may read, write, list and remove in the storage.",
    ),
    cfg.StrOpt(
        "agent_auth_file",
        help="The same for the account that the ramdisks are sent; it needs to write only. By "
        "default they are sent that of storage_auth_file, with which a machine can read the "
        "images of others.",
    ),
    cfg.StrOpt(
        "storage_token_key_file",
        help="In place of agent_auth_file: a file, of mode 600, with a key that the storage "
        "knows too. Each ramdisk is then sent a token that is good for its own snapshot alone.",
    ),
    cfg.StrOpt(
        "encryption_key_file",
        help="A file, of mode 600, with an X25519 private key that all conductors have: images "
        "are encrypted in the storage. By default they are not.",
    ),
    cfg.StrOpt(
        "writer", default="auto",
        help="How images are made and sent where the step does not say: auto, or a writer of "
        "the ramdisk.",
    ),
    cfg.IntOpt(
        "timeout", default=24 * 3600, min=1,
        help="How long the capture may take, and then the upload, in seconds.",
    ),
    cfg.IntOpt(
        "max_concurrent_snapshots", default=8, min=1,
        help="So many machines are captured at once, by all conductors; others wait.",
    ),
    cfg.IntOpt(
        "max_concurrent_uploads", default=4, min=1,
        help="So many images are uploaded at once by one conductor; others wait.",
    ),
    cfg.IntOpt(
        "retention", default=24 * 3600, min=0,
        help="How long an image that was captured and could not be uploaded stays in the storage "
        "for the step upload_snapshot, in seconds; 0: it is removed at once.",
    ),
    cfg.StrOpt(
        "work_dir", default="$state_path/snapshots",
        help="Where the raw images of the writer dd are converted.",
    ),
    cfg.IntOpt(
        "min_free", default=10 * 1024**3, min=0,
        help="A conversion that would leave less than this free in work_dir is ended, in bytes.",
    ),
    cfg.IntOpt(
        "poll_interval", default=5, min=1,
        help="How often the agents and the uploads are asked after, in seconds.",
    ),
    cfg.IntOpt(
        "clean_up_interval", default=60, min=1,
        help="How often all nodes are looked through for snapshots that are over, in seconds.",
    ),
]  # fmt: skip


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options for oslo.config's sample generator."""
    return [(GROUP, OPTIONS)]


def register(conf: cfg.ConfigOpts) -> None:
    """Let a configuration know the section."""
    conf.register_opts(OPTIONS, group=GROUP)


@dataclass(frozen=True)
class Settings:
    """What the section says; times in seconds, sizes in bytes."""

    storage_url: str | None
    storage_ca: str | None
    storage_auth_file: str | None
    agent_auth_file: str | None
    storage_token_key_file: str | None
    encryption_key_file: str | None
    writer: str
    timeout: int
    max_concurrent_snapshots: int
    max_concurrent_uploads: int
    retention: int
    work_dir: str
    min_free: int
    poll_interval: int
    clean_up_interval: int

    @classmethod
    def read(cls, conf: Any) -> "Settings":
        """Read the section of a configuration in which it is registered."""
        section: Mapping[str, Any] = conf[GROUP]
        return cls(**{option.name: section[option.name] for option in OPTIONS})

    def check(self) -> None:
        """Make sure that what the section says can work, while the machine still runs.

        :raises: InvalidRequest
        """
        self.agent_access("a-node", "an-image")
        self.encryption_key()

    def access(self) -> StorageAccess:
        """Return how this side reaches the storage; the account is read anew each time.

        :raises: InvalidRequest
        """
        if not self.storage_url:
            raise errors.InvalidRequest(
                "the conductor is not told where to store images: set storage_url in [snapshot] "
                "of its configuration"
            )
        # What the conductor's environment says is not meant for it.
        return StorageAccess.of(
            self.storage_url, self.storage_auth_file, self.storage_ca, environment={}
        )

    def encryption_key(self) -> PrivateKey | None:
        """Return the key that decrypts images of the storage, if there is one.

        :raises: InvalidRequest
        """
        return PrivateKey.read_if_given(self.encryption_key_file)

    def agent_access(self, collection: str, generation: str) -> dict[str, Any]:
        """Return the parameters of the agent's command with which it reaches a ``collection``.

        :param generation: with what the names of the snapshot's objects begin.
        :raises: InvalidRequest
        """
        access = self.access()
        account = access.credentials
        if self.storage_token_key_file and self.agent_auth_file:
            raise errors.InvalidRequest(
                "[snapshot] has both agent_auth_file and storage_token_key_file: take one out"
            )
        if self.agent_auth_file:
            account = Credentials.read(self.agent_auth_file)
        elif self.storage_token_key_file:
            account = token.issue(
                self.storage_token_key_file,
                "%s/%s" % (access.location.path, collection),
                generation,
                int(time.time()) + self.timeout,
            )
        url = "%s/%s" % (access.location, collection)
        return {"url": url, **storage_params(account, access.trust)}
