# SPDX-License-Identifier: Apache-2.0
"""A snapshot through an agent that is reached directly, without Ironic."""

import time
from typing import Any

from oslo_log import log

from conductor_client import delivery, errors
from conductor_client.agent import Agent, Captured, Forgotten, NoAnswer, storage_params
from conductor_client.delivery import CaptureOptions, Snapshot
from conductor_client.images import parse_image_ref
from snapshot_core.credentials import Credentials, Trust
from snapshot_core.encryption import PrivateKey
from snapshot_core.location import Location, check_image_name, stop_name
from snapshot_core.progress import OnProgress
from snapshot_core.storage import open_storage
from snapshot_core.storage.base import Storage

__all__ = ["CaptureOptions", "Snapshot", "take_snapshot"]

LOG = log.getLogger(__name__)

_POLL_S = 1.0
# An agent under full load still answers; one that is silent for this long is gone.
_AGENT_PATIENCE_S = 300
# The agent looks every few seconds whether it is to stop, save where davfs2 or a disk blocks it.
_STOP_PATIENCE_S = 60


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
    timeout_s: float = delivery.TIMEOUT_S,
    encryption_key: PrivateKey | None = None,
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
    :param encryption_key: whose holder alone can read the intermediate image; by default it is not
        encrypted.
    :raises: one of ``conductor_client.errors``
    """
    options = delivery.encrypting(options or CaptureOptions(), encryption_key)
    trust = trust or Trust()
    location = Location.parse(storage_url)
    name = check_image_name(image_name or delivery.new_image_name(options.image_format))
    target = parse_image_ref(image_ref, connection)
    params = {
        "url": storage_url, "image_name": name, **options.to_wire(),
        **storage_params(credentials, trust),
    }  # fmt: skip
    with (
        Agent(agent_url, agent_token, agent_trust or Trust()) as agent,
        open_storage(location, credentials, trust) as storage,
    ):
        capture = _AgentCapture(agent, storage, params, on_progress, timeout_s)
        order = delivery.Order(
            storage, name, image_ref, target, options.image_format, work_dir, on_progress,
            key=encryption_key,
        )  # fmt: skip
        return delivery.take(capture, order)


class _AgentCapture(delivery.Capture):
    """Sends the agent its command, and polls it."""

    def __init__(
        self,
        agent: Agent,
        storage: Storage,
        params: dict[str, Any],
        on_progress: OnProgress | None,
        timeout_s: float,
    ) -> None:
        self._agent = agent
        self._storage = storage
        self._params = params
        self._on_progress = on_progress
        self._timeout_s = timeout_s
        self._refused = False

    def check(self) -> None:
        """See :meth:`.Capture.check`."""
        self._agent.check()
        delivery.check_storage(self._storage, self._params["image_name"])

    def run(self) -> Captured:
        """See :meth:`.Capture.run`."""
        command_id = None
        try:
            command_id = self._agent.start(self._params)
            return _follow(
                self._agent, command_id, self._on_progress, self._timeout_s, _AGENT_PATIENCE_S
            )
        except (KeyboardInterrupt, errors.AgentUnavailable) as exc:
            may_have_begun = command_id or isinstance(exc, (KeyboardInterrupt, NoAnswer))
            if may_have_begun and not isinstance(exc, Forgotten):
                _stop(self._agent, command_id, self._storage, self._params["image_name"])
            raise
        except (errors.InvalidRequest, errors.CommandFailed) as exc:
            refusal = errors.InvalidRequest.__name__
            self._refused = refusal in (exc.word, getattr(exc, "agent_word", None))
            raise

    def may_go_on(self) -> bool:
        """See :meth:`.Capture.may_go_on`.

        After a refusal another snapshot may have taken the name, and its machine goes on.
        """
        return self._refused


def _follow(
    agent: Agent,
    command_id: str,
    on_progress: OnProgress | None,
    timeout_s: float,
    patience_s: float,
) -> Captured:
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        status = agent.status(command_id, min(patience_s, left_s))
        if status.captured is not None:
            return status.captured
        if status.progress is not None and on_progress is not None:
            on_progress(status.progress)
        time.sleep(_POLL_S)
    raise errors.AgentUnavailable(
        "the agent at %s was not done within %d s: take the snapshot again with a longer timeout"
        % (agent.url, timeout_s)
    )


def _stop(agent: Agent, command_id: str | None, storage: Storage, name: str) -> None:
    """Ask the agent to stop, and wait a while until it has; never raise one of our errors.

    It is asked through the storage, and so hears of it if only the way to this side is cut.

    :param command_id: None if the agent may have started it, and its answer was lost.
    """
    LOG.warning("Asking the agent at %(agent)s to stop", {"agent": agent.url})
    try:
        storage.create(stop_name(name))
        if command_id is None:
            _wait_until_idle(agent, _STOP_PATIENCE_S)
        else:
            _follow(agent, command_id, None, _STOP_PATIENCE_S, _STOP_PATIENCE_S)
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


def _wait_until_idle(agent: Agent, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            agent.check()
        except errors.AgentUnavailable:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_POLL_S)
