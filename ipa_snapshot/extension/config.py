# SPDX-License-Identifier: Apache-2.0
"""The section ``[ipa_snapshot]`` of the agent's configuration: where service steps may store.

It is the ramdisk's and not the step's, because a step's arguments are stored on the node and
logged, and whoever may service a node must not be able to send its disk anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ironic_python_agent import utils as agent_utils
from oslo_config import cfg

from ipa_snapshot import errors
from ipa_snapshot.extension.allowed_storage import Place, allowed_url
from snapshot_core.credentials import Credentials, Trust

GROUP = "ipa_snapshot"


def options(kernel: Mapping[str, str]) -> list[cfg.Opt]:
    """Return the options; what ``kernel`` parameters say is the default, as with the agent's own.

    ``insecure`` and ``allowed_storage`` have no such parameter: with Ironic 39 a node's
    ``instance_info``, which a project's member may write, can add kernel parameters.
    """
    return [
        cfg.StrOpt(
            "storage_url", default=kernel.get("ipa-snapshot-storage-url"), sample_default="",
            help="The storage that service steps store images in: https://host/collection, or "
            "nfs://host/export. Can be supplied as the kernel parameter ipa-snapshot-storage-url.",
        ),
        cfg.StrOpt(
            "cacert", default=kernel.get("ipa-snapshot-cacert"), sample_default="",
            help="A PEM file in the ramdisk with the authorities that verify the storage's "
            "certificate; by default the system's. Can be supplied as the kernel parameter "
            "ipa-snapshot-cacert.",
        ),
        cfg.BoolOpt(
            "insecure", default=False, help="Do not verify the storage's certificate.",
        ),
        cfg.StrOpt(
            "auth_file", default=kernel.get("ipa-snapshot-auth-file"), sample_default="",
            help="A file in the ramdisk, of mode 600, with username and password, or token, of an "
            "account that can write but neither read nor list. Can be supplied as the kernel "
            "parameter ipa-snapshot-auth-file.",
        ),
        cfg.ListOpt(
            "allowed_storage", default=[],
            help="URLs: a step's argument url is taken if it is one of them, or below one, or is "
            "storage_url or below it. The account is used where scheme, host and port are those "
            "of storage_url.",
        ),
    ]  # fmt: skip


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options for oslo.config's sample generator."""
    return [(GROUP, options({}))]


def register(conf: cfg.ConfigOpts) -> None:
    """Let the agent's configuration know the section."""
    conf.register_opts(options(agent_utils.get_agent_params()), group=GROUP)


@dataclass(frozen=True)
class Target:
    """Where images go, and how that is reached; ``url`` may end in a slash."""

    url: str
    credentials: Credentials | None
    trust: Trust


@dataclass(frozen=True)
class StepConfig:
    """What the ramdisk's configuration says about storages."""

    storage_url: str
    cacert: str | None = None
    insecure: bool = False
    auth_file: str | None = None
    allowed_storage: tuple[str, ...] = ()

    @classmethod
    def read(cls, conf: Any) -> "StepConfig":
        """Read the section of a configuration in which it is registered.

        :raises: InvalidRequest
        """
        try:
            values = {option.name: conf[GROUP][option.name] for option in options({})}
        except (cfg.Error, ValueError) as exc:
            raise errors.InvalidRequest("the ramdisk's configuration: %s" % exc) from exc
        if not values["storage_url"]:
            raise errors.InvalidRequest(
                "this ramdisk is not told where to store images: set storage_url in [ipa_snapshot] "
                "of a file in /etc/ironic-python-agent.d, or the kernel parameter "
                "ipa-snapshot-storage-url"
            )
        if values["insecure"] and values["cacert"]:
            raise errors.InvalidRequest(
                "the ramdisk's configuration: insecure and cacert exclude each other"
            )
        return cls(
            storage_url=values["storage_url"],
            cacert=values["cacert"] or None,
            insecure=values["insecure"],
            auth_file=values["auth_file"] or None,
            allowed_storage=tuple(values["allowed_storage"]),
        )

    def target(self, url: object = None) -> Target:
        """Return where to store, for a step with the argument ``url``, or without one.

        :raises: InvalidRequest
        """
        home = Place.of(self.storage_url)
        where = (
            self.storage_url
            if url is None
            else allowed_url(url, (self.storage_url, *self.allowed_storage))
        )
        credentials = None
        if self.auth_file is not None and Place.of(where).same_server(home):
            credentials = Credentials.read(self.auth_file)
        return Target(where, credentials, Trust(self.cacert, self.insecure))
