# SPDX-License-Identifier: Apache-2.0
"""The agent's extension ``snapshot`` with its command ``snapshot.stream_image``."""

import contextlib
import functools
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ironic_python_agent import errors as agent_errors
from ironic_python_agent.extensions import base
from oslo_log import log

from ipa_snapshot import capture, errors
from ipa_snapshot.extension.root_device import find_root_device
from ipa_snapshot.extension.secrecy import HiddenAuth, hide_credentials, refuse_exposed_credentials
from ipa_snapshot.request import SnapshotRequest
from ipa_snapshot.writers import base as writers
from snapshot_core.credentials import Trust
from snapshot_core.progress import Progress

LOG = log.getLogger(__name__)


class SnapshotFailed(agent_errors.RESTError):
    """One of our errors on its way to the caller: its ``type`` is our error's name."""

    message = "Snapshot failed"

    def __init__(self, error: errors.SnapshotError) -> None:
        super().__init__(details=str(error))
        self.type = error.word


class RefusedRequest(agent_errors.InvalidContentError):
    """An InvalidRequest of ours: the agent answers 400, with the word before the message."""

    message = errors.InvalidRequest.__name__


def _validate(_extension: object, /, **options: Any) -> None:
    # Runs before the command is accepted. By position, because a TypeError in here would stay
    # among the results of ironic-python-agent 13.0, which then cannot list any of them.
    try:
        refuse_exposed_credentials(options.get("auth"))
        _parse(**options)
    except errors.InvalidRequest as exc:
        raise RefusedRequest(str(exc)) from exc


class SnapshotExtension(base.BaseAgentExtension):
    """Takes snapshots of the root device on a command of the conductor's."""

    def __init__(self, agent: Any = None) -> None:
        super().__init__(agent)
        hide_credentials(agent)

    @base.async_command("stream_image", _validate)
    def stream_image(self, url: str, image_name: str, **options: Any) -> dict[str, Any]:
        """Store an image of the root device in the intermediate storage.

        :param url: the storage: ``http(s)://host/path``, ``nfs://host/path``, ``host:/path`` or
            ``file:///path``.
        :param image_name: the image's name there; one that exists is refused.
        :param options: ``writer``, ``image_format``, ``compression``, ``auth`` (a mapping with
            ``username`` and ``password``, or ``token``), ``cacert`` (PEM text) or ``insecure``,
            ``expected_serial``, ``expected_wwn``, ``any_root``, ``bad_sectors``, ``encrypt_for``
            (see :class:`.PublicKey`).
        :returns: the result, see :meth:`ipa_snapshot.capture.SnapshotResult.to_wire`.
        :raises: SnapshotFailed
        """
        try:
            request, cacert, insecure = _parse(url=url, image_name=image_name, **options)
            with _trust(cacert, insecure) as trust:
                device = find_root_device(request.expectation)
                report = functools.partial(self._report, threading.current_thread())
                result = capture.take_snapshot(request, device, trust, report)
        except errors.SnapshotError as exc:
            raise SnapshotFailed(exc) from exc
        return result.to_wire()

    def _report(self, command: threading.Thread, progress: Progress) -> None:
        # The agent has no means for this, but a poller sees whatever stands here meanwhile.
        # A copy: the agent adds this very command while its thread runs already.
        for result in list(self.agent.command_results.values()):
            if getattr(result, "execution_thread", None) is command:
                with result.command_state_lock:
                    result.command_result = {"progress": progress.to_wire()}


def _parse(
    cacert: object = None, insecure: object = False, **options: Any
) -> tuple[SnapshotRequest, str | None, bool]:
    if cacert is not None and (not isinstance(cacert, str) or "BEGIN CERTIFICATE" not in cacert):
        raise errors.InvalidRequest("cacert must be the text of a PEM file with certificates")
    if not isinstance(insecure, bool) or (insecure and cacert is not None):
        raise errors.InvalidRequest("insecure must be true or false, and excludes cacert")
    if isinstance(options.get("auth"), HiddenAuth):
        options["auth"] = options["auth"].parse()
    request = SnapshotRequest.parse(**options)
    writers.check_options(request.writer, request.bad_sectors, insecure, bool(request.encrypt_for))
    return request, cacert, insecure


@contextlib.contextmanager
def _trust(cacert: str | None, insecure: bool) -> Iterator[Trust]:
    if cacert is None:
        yield Trust(insecure=insecure)
        return
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ipa-snapshot-ca-"))
            path = Path(directory, "ca.pem")
            path.write_text(cacert, encoding="utf-8")
        except OSError as exc:
            raise errors.NotEnoughMemory(
                "there is no room for the storage's certificates in %s: %s"
                % (tempfile.gettempdir(), exc.strerror)
            ) from exc
        yield Trust(cacert=str(path))
