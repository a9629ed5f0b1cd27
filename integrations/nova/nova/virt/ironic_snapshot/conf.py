# SPDX-License-Identifier: Apache-2.0
"""The options of the section ``[ironic_snapshot]`` of nova.conf, read once for each snapshot."""

from dataclasses import dataclass
from typing import Self

from oslo_config import cfg

from conductor_client.sdk import Handling, StorageAccess
from snapshot_core.encryption import PrivateKey

_DEFAULT = Handling()

GROUP = cfg.OptGroup("ironic_snapshot", title="Snapshots of Ironic's nodes")
OPTS = (
    cfg.StrOpt(
        "storage_url",
        help="The URL of the storage into which ramdisks store images: their own storage_url, as "
        "this compute service reaches it. Not needed for nodes whose vendor interface is "
        "'snapshot': there the conductor's plug-in does the work.",
    ),
    cfg.StrOpt(
        "storage_auth_file",
        help="A file of mode 600 with an account that may read and remove in the storage: "
        "'username' and 'password', or 'token', as YAML or JSON.",
    ),
    cfg.StrOpt(
        "storage_cacert",
        help="A PEM file with the authorities that are trusted for the storage, in place of the "
        "system's.",
    ),
    cfg.StrOpt(
        "encryption_key_file",
        help="A file of mode 600 with the private key (X25519, PEM) for which ramdisks encrypt "
        "images. By default they do not. The conductor's plug-in has a key of its own, if any.",
    ),
    cfg.IntOpt(
        "shutdown_timeout",
        default=_DEFAULT.shutdown_timeout_s,
        min=0,
        help="How long an instance may take to shut down, in seconds, before its power is cut. "
        "0: it is not asked to.",
    ),
    cfg.IntOpt(
        "timeout",
        default=int(_DEFAULT.timeout_s),
        min=1,
        help="How long a capture may take, in seconds, from the request to the image.",
    ),
)


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make the options known to ``conf``."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[cfg.OptGroup, tuple[cfg.Opt, ...]]]:
    """Return the options, for oslo-config-generator."""
    return [(GROUP, OPTS)]


@dataclass(frozen=True)
class Settings:
    """What a snapshot is taken with.

    :ivar storage: None where only nodes with the conductor's plug-in are snapshotted.
    """

    storage: StorageAccess | None
    key: PrivateKey | None
    handling: Handling

    @classmethod
    def read(cls, conf: cfg.ConfigOpts) -> Self:
        """Read the options, and the files that they name.

        :raises: InvalidRequest
        """
        own = conf.ironic_snapshot
        storage = None
        if own.storage_url:
            storage = StorageAccess.of(
                own.storage_url, own.storage_auth_file, own.storage_cacert, environment={}
            )
        return cls(
            storage,
            PrivateKey.read_if_given(own.encryption_key_file),
            Handling(shutdown_timeout_s=own.shutdown_timeout, timeout_s=own.timeout),
        )
