# SPDX-License-Identifier: Apache-2.0
"""A snapshot from the conductor's side, from the first check to the last clean-up."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslo_log import log

from conductor_client import errors
from conductor_client.agent import Agent, Captured
from conductor_client.convert import converted
from conductor_client.images import ImageFacts, ImageTarget, parse_image_ref
from conductor_client.verified import VerifiedImage
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.location import Location, check_image_name, manifest_name, part_name, stop_name
from snapshot_core.progress import Meter, OnProgress
from snapshot_core.storage import open_storage
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

_POLL_S = 1.0
# An agent under full load still answers; one that is silent for this long is gone.
_AGENT_PATIENCE_S = 300
_TIMEOUT_S = 24 * 3600
# The agent looks every few seconds whether it is to stop, save where davfs2 or a disk blocks it.
_STOP_PATIENCE_S = 60


@dataclass(frozen=True)
class Snapshot:
    """A finished snapshot; sizes in bytes. ``sha512`` is that of the image at ``image_ref``."""

    image_ref: str
    disk_format: str
    size: int
    sha512: str
    captured: Captured
    warnings: tuple[str, ...]
    elapsed_s: float

    def to_wire(self) -> dict[str, Any]:
        """Return what ``ironic-snapshot take --json`` prints."""
        return {
            "image_ref": self.image_ref,
            "disk_format": self.disk_format,
            "size": self.size,
            "virtual_size": self.captured.virtual_size,
            "checksum": {"algorithm": "sha512", "value": self.sha512},
            "captured": dict(self.captured.raw),
            "warnings": list(self.warnings),
            "elapsed_s": round(self.elapsed_s, 3),
        }


@dataclass(frozen=True)
class CaptureOptions:
    """What the agent is asked for, beyond where the image goes."""

    writer: str = "auto"
    image_format: str = "qcow2"
    compression: str = "auto"
    expected_serial: str | None = None
    expected_wwn: str | None = None
    any_root: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the options of the agent's command."""
        return {key: value for key, value in vars(self).items() if value is not None}


def take_snapshot(
    *,
    agent_url: str,
    agent_token: str,
    storage_url: str,
    image_ref: str,
    on_progress: OnProgress | None = None,
    credentials: Credentials | None = None,
    trust: Trust | None = None,
    agent_trust: Trust | None = None,
    options: CaptureOptions | None = None,
    image_name: str | None = None,
    connection: Any = None,
    work_dir: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Snapshot:
    """Take a snapshot of the machine whose agent is at ``agent_url``.

    Everything is checked before anything is started. When it fails, the intermediate image is
    gone and the place at ``image_ref`` still waits for data.

    :param agent_token: the token that the agent was given.
    :param storage_url: the intermediate storage, as both this machine and the agent reach it.
    :param image_ref: the UUID of a queued Glance image, or ``file:///path`` of a new file.
    :param on_progress: is told how far the snapshot is.
    :param credentials: the account at the storage; the agent gets it too.
    :param trust: how the storage's certificate is verified; the agent gets it too.
    :param agent_trust: how the agent's certificate is verified.
    :param image_name: the intermediate image's name; by default an unguessable one.
    :param connection: an ``openstack.connection.Connection``; by default from the environment.
    :param work_dir: where a raw image is converted; by default the system's temporary directory.
    :param timeout_s: how long the capture may take, in seconds.
    :raises: one of ``conductor_client.errors``
    """
    began = time.monotonic()
    options, trust = options or CaptureOptions(), trust or Trust()
    location = Location.parse(storage_url)
    name = check_image_name(image_name or "%s-snapshot.%s" % (uuid.uuid4(), options.image_format))
    target = parse_image_ref(image_ref, connection)
    meter = Meter(on_progress)
    with (
        Agent(agent_url, agent_token, agent_trust or Trust()) as agent,
        open_storage(location, credentials, trust) as storage,
    ):
        _check(agent, storage, name, target)
        params = {
            "url": storage_url, "image_name": name, **options.to_wire(),
            **_access(credentials, trust),
        }  # fmt: skip
        with _intermediate_image(storage, name) as warnings:
            captured = _capture(agent, storage, params, on_progress, timeout_s)
            image = VerifiedImage(storage, name, captured.size, captured.sha512, meter)
            with _in_format(image, captured, options, work_dir, meter) as (final, disk_format):
                meter.phase("upload", final.size)
                target.store(final, ImageFacts(disk_format, captured.virtual_size))
        return Snapshot(
            image_ref, disk_format, final.size, final.sha512, captured, tuple(warnings),
            time.monotonic() - began,
        )  # fmt: skip


def _check(agent: Agent, storage: Storage, name: str, target: ImageTarget) -> None:
    target.check()
    agent.check()
    # The agent claims the name itself, when it starts; this proves that we can write and remove.
    storage.claim(name)
    storage.remove(part_name(name))


def _access(credentials: Credentials | None, trust: Trust) -> dict[str, Any]:
    access: dict[str, Any] = {"auth": credentials.to_wire()} if credentials else {}
    if trust.insecure:
        access["insecure"] = True
    if trust.cacert is not None:
        access["cacert"] = Path(trust.cacert).read_text(encoding="utf-8")
    return access


@contextlib.contextmanager
def _intermediate_image(storage: Storage, name: str) -> Iterator[list[str]]:
    """Remove the intermediate image in the end, whatever happens.

    Yields the list of warnings: after a success, an image that cannot be removed is one.
    """
    warnings: list[str] = []
    try:
        yield warnings
    except BaseException:
        storage.discard(part_name(name), name, manifest_name(name))
        raise
    try:
        storage.remove(name)
        storage.remove(manifest_name(name))
    except errors.SnapshotError as exc:
        warnings.append("the intermediate image is left behind: %s" % exc)
        LOG.warning(warnings[-1])


def _capture(
    agent: Agent,
    storage: Storage,
    params: dict[str, Any],
    on_progress: OnProgress | None,
    timeout_s: float,
) -> Captured:
    command_id = agent.start(params)
    try:
        captured = _follow(agent, command_id, on_progress, timeout_s)
    except (KeyboardInterrupt, _TimedOut):
        _stop(agent, command_id, storage, params["image_name"])
        raise
    if captured.image_name != params["image_name"]:
        raise errors.CommandFailed("an unusable result", "it is about another image")
    return captured


def _follow(
    agent: Agent, command_id: str, on_progress: OnProgress | None, timeout_s: float
) -> Captured:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = agent.status(command_id, _AGENT_PATIENCE_S)
        if status.captured is not None:
            return status.captured
        if status.progress is not None and on_progress is not None:
            on_progress(status.progress)
        time.sleep(_POLL_S)
    raise _TimedOut(
        "the agent at %s was not done within %d s: take the snapshot again with a longer timeout"
        % (agent.url, timeout_s)
    )


class _TimedOut(errors.AgentUnavailable):
    """The agent is alive, but its time is over."""

    @property
    def word(self) -> str:
        return errors.AgentUnavailable.__name__


def _stop(agent: Agent, command_id: str, storage: Storage, name: str) -> None:
    """Ask the agent to stop, and wait a while until it has; never raise one of our errors."""
    LOG.warning("Asking the agent at %(agent)s to stop", {"agent": agent.url})
    try:
        storage.create(stop_name(name))
        _follow(agent, command_id, None, _STOP_PATIENCE_S)
    except errors.CommandFailed as exc:
        LOG.warning("The agent has stopped: %(reason)s", {"reason": exc})
    except errors.SnapshotError as exc:
        LOG.warning(
            "The agent at %(agent)s may go on: power the machine off, or wait and then remove "
            "%(name)s and %(name)s.part from the storage (%(reason)s)",
            {"agent": agent.url, "name": name, "reason": exc},
        )
    finally:
        storage.discard(stop_name(name))


@contextlib.contextmanager
def _in_format(
    image: VerifiedImage, captured: Captured, options: CaptureOptions, work_dir: str | None,
    meter: Meter,
) -> Iterator[tuple[VerifiedImage, str]]:  # fmt: skip
    if captured.disk_format == options.image_format:
        yield image, captured.disk_format
    elif captured.disk_format == "raw":
        LOG.info("Converting the raw image to qcow2")
        with converted(image, work_dir, meter) as final:
            yield final, "qcow2"
    else:
        raise errors.CommandFailed("an unusable result", "the image is %s" % captured.disk_format)
