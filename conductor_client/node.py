# SPDX-License-Identifier: Apache-2.0
"""One node in Ironic, through its API: how it is, and what it is asked for.

The API is spoken to without the client library's own resources, since those choose a version of
the API by themselves, and since what it answers is parsed here, once.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib import parse

import openstack.exceptions
import tenacity
from keystoneauth1 import exceptions as keystone_exceptions
from oslo_log import log

from conductor_client import errors, states
from conductor_client.ironic.image_access import REFUSALS, projects_of
from conductor_client.ironic.record import IMAGE_REF_KEY, KEY, RAMDISK_KEY, Book
from conductor_client.ironic.record import Record as SnapshotRecord
from snapshot_core.process import printable

LOG = log.getLogger(__name__)

# The verb `service` came with it, in Ironic 23.0.
API_VERSION = "1.87"
SERVICE_FAULT = "service failure"
# With it a service may be asked for that boots no ramdisk, from Ironic 34.0 on.
_NO_RAMDISK_VERSION = "1.108"
# Ironic keeps these on a node until it cuts the power of the ramdisk, and until it has brought the
# instance back from a snapshot by the verb. It takes the step away when it tears a service down.
_IN_RAMDISK = ("agent_start_attempted", RAMDISK_KEY)
# An API that is restarted or upgraded is back by then.
_OUTAGE_S = 600
_PAUSE = tenacity.wait_random_exponential(multiplier=0.5, max=15)
_API_ERRORS = (openstack.exceptions.SDKException, keystone_exceptions.ClientException)


@dataclass(frozen=True)
class Record:
    """A node as Ironic shows it at one moment.

    ``steps`` are those of the service that runs or failed. They and ``last_error`` are None where
    this account is not shown them. ``snapshot`` is the last one that the conductor's plug-in took
    or takes, and ``projects`` are those whose images it may go into. ``image_ref`` is that of the
    snapshot that goes on, if it is known. ``in_ramdisk``: a service or snapshot that failed has
    left the machine there, as far as that is shown.
    """

    uuid: str
    name: str
    provision_state: str
    power_state: str | None
    target_power_state: str | None
    reservation: str | None
    maintenance: bool
    maintenance_reason: str
    fault: str | None
    last_error: str | None
    vendor_interface: str | None
    instance_uuid: str | None
    projects: frozenset[str]
    steps: tuple[Mapping[str, Any], ...] | None
    snapshot: SnapshotRecord | None
    image_ref: str | None
    in_ramdisk: bool

    @property
    def free(self) -> bool:
        """Whether no conductor holds the node's lock."""
        return self.reservation is None

    @classmethod
    def parse(cls, raw: object) -> "Record":
        """Read the API's answer.

        :raises: IronicUnavailable
        """
        try:
            if not isinstance(raw, Mapping):
                raise ValueError("no object")
            info = raw.get("driver_internal_info") or {}
            snapshot = _snapshot(info)
            return cls(
                uuid=str(raw["uuid"]),
                name=str(raw.get("name") or raw["uuid"]),
                provision_state=str(raw["provision_state"]),
                power_state=raw.get("power_state"),
                target_power_state=raw.get("target_power_state"),
                reservation=_shown(raw.get("reservation")),
                maintenance=bool(raw.get("maintenance")),
                maintenance_reason=_text(raw.get("maintenance_reason")),
                fault=raw.get("fault"),
                last_error=_last_error(raw.get("last_error")),
                vendor_interface=raw.get("vendor_interface"),
                instance_uuid=raw.get("instance_uuid"),
                projects=projects_of(
                    raw.get("owner"),
                    raw.get("lessee"),
                    (raw.get("instance_info") or {}).get("project_id"),
                ),
                steps=_steps(info),
                snapshot=snapshot,
                image_ref=info.get(IMAGE_REF_KEY) or (snapshot.image_ref if snapshot else None),
                in_ramdisk=bool(raw.get("service_step")) or any(key in info for key in _IN_RAMDISK),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise errors.IronicUnavailable("what Ironic tells of the node is unusable") from exc

    def may_be_in_step(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether the service that runs or failed has a step with these arguments.

        True also where that is not shown.
        """
        return self.steps is None or any(step.get("args") == arguments for step in self.steps)


class Provision(Protocol):
    """What a node is asked for, that changes its provision state.

    :ivar version: of the API, which knows it; ``body`` is what is sent.
    :ivar failed_state: in which the node is after its failure.
    """

    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def failed_state(self) -> str: ...  # noqa: D102
    @property
    def body(self) -> dict[str, Any]: ...  # noqa: D102

    def may_be_in(self, record: Record) -> bool:
        """Tell whether the node is in it, or in its failure; True also if that is not shown."""


class Node:
    """A node that is named by its UUID or its name.

    What may be sent twice is sent again, for ten minutes, while the API does not answer.

    :param connection: an ``openstack.connection.Connection``.
    """

    def __init__(self, connection: Any, ident: str) -> None:
        self.ident = ident
        self._connection = connection
        # Its UUID once that is known: meanwhile another node may be given the name.
        self._address = ident

    def read(self) -> Record:
        """Return the node as it is now.

        :raises: NodeNotReady, IronicUnavailable
        """
        record = Record.parse(self._insist("GET", ""))
        self._address = record.uuid
        return record

    def invalid_interfaces(self) -> list[str]:
        """Return what is wrong with the power and the network of the node: each a reason."""
        found = self._validation(API_VERSION)
        return [
            "%s: %s" % (name, _text(found[name].get("reason")))
            for name in ("power", "network")
            if name in found and found[name].get("result") is False
        ]

    def _validation(self, version: str) -> dict[str, Mapping[str, Any]]:
        found = self._request("GET", "/validate", version=version)
        if not isinstance(found, Mapping):
            raise errors.IronicUnavailable("what Ironic tells of the node is unusable")
        return {name: told for name, told in found.items() if isinstance(told, Mapping)}

    def has_interface(self, name: str, version: str) -> bool:
        """Tell whether an implementation of a hardware interface, other than none, is chosen.

        :param version: of the API, which shows the interface.
        :raises: IronicUnavailable
        """
        field = "%s_interface" % name
        try:
            found = self._request("GET", "?fields=" + field, version=version)
        except errors.NodeNotReady:
            return False  # This Ironic has no such interface.
        if not isinstance(found, Mapping) or field not in found:
            return False
        if found[field] is None:
            # A node that is older than the interface has its driver's default.
            return self._validation(version).get(name, {}).get("result") is True
        return str(found[field]) != "no-" + name

    def knows_version(self, version: str) -> bool:
        """Tell whether the API goes up to this version.

        :raises: IronicUnavailable
        """
        try:
            self._insist("GET", "?fields=uuid", version=version)
        except errors.NodeNotReady:
            return False
        return True

    def provision(self, asked: Provision) -> None:
        """Ask for a change of the provision state; not repeated when no answer comes.

        :raises: NodeNotReady, IronicUnavailable
        """
        try:
            self._request("PUT", "/states/provision", asked.body, asked.version)
        except _Away:
            record = self.read()
            if record.provision_state == states.ACTIVE or not asked.may_be_in(record):
                raise
            LOG.info("Ironic has started it, although its answer was lost")

    def abort(self) -> None:
        """Ask Ironic to abort the service, or to recover from its failure."""
        self._insist("PUT", "/states/provision", {"target": "abort"})

    def leave_failed_service(self) -> None:
        """Ask for a service that boots nothing, and so leads from a failed one to active.

        It leaves the power, the networks and the boot device alone, where an abort cuts the power.

        :raises: NodeNotReady, also when no answer comes and nothing was begun; IronicUnavailable
        """
        # Ironic 39 does not even do this step: it drops such steps from the list.
        step = {"interface": "power", "step": "power_on"}
        body = {"target": "service", "service_steps": [step], "disable_ramdisk": True}
        try:
            self._request("PUT", "/states/provision", body, _NO_RAMDISK_VERSION)
        except _Away as exc:
            if self.read().provision_state == states.SERVICE_FAILED:
                raise errors.NodeNotReady(str(exc)) from exc

    def clear_maintenance(self) -> None:
        """Take the node out of maintenance."""
        self._insist("DELETE", "/maintenance")

    def set_power(self, target: str, timeout_s: int | None = None) -> None:
        """Ask for a power state: ``power on``, ``power off`` or ``soft power off``.

        The last one is not repeated when no answer comes: a refusal says that nothing was begun.

        :param timeout_s: how long Ironic may wait for it, in seconds; by default its own time.
        """
        body = {"target": target, **({"timeout": timeout_s} if timeout_s else {})}
        send = self._request if target.startswith("soft ") else self._insist
        send("PUT", "/states/power", body)

    def _insist(
        self, method: str, path: str, body: object = None, version: str = API_VERSION
    ) -> object:
        send = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Away),
            stop=tenacity.stop_after_delay(_OUTAGE_S),
            wait=_PAUSE,
            before_sleep=tenacity.before_sleep_log(logging.getLogger(__name__), logging.WARNING),
            reraise=True,
        )
        return send(self._request, method, path, body, version)

    def _request(
        self, method: str, path: str, body: object = None, version: str = API_VERSION
    ) -> object:
        url = "/nodes/%s%s" % (parse.quote(self._address, safe=""), path)
        try:
            # The connection asks the API for its versions, when it is first used.
            answer = self._connection.baremetal.request(
                url, method, json=body, microversion=version, raise_exc=False,
                # openstacksdk 4.0 repeats by itself what may have been done without an answer.
                connect_retries=0,
            )  # fmt: skip
        except REFUSALS as exc:
            # Not an outage: asking again does not help.
            raise errors.IronicUnavailable(
                "Keystone does not accept these credentials, or not any more (%s): a token alone "
                "cannot be renewed when it expires, a password or an application credential can"
                % exc
            ) from exc
        except _API_ERRORS as exc:
            raise _Away("Ironic does not answer: %s" % exc) from exc
        if answer.status_code not in (200, 202, 204):
            raise self._refusal(answer, version)
        try:
            return answer.json() if answer.content else None
        except ValueError as exc:
            # A load balancer's page, for example.
            raise _Away("Ironic's answer is no JSON: %s" % _text(answer.text)[:200]) from exc

    def _refusal(self, answer: Any, version: str) -> errors.SnapshotError:
        status, reason = answer.status_code, _fault(answer)
        if status in (401, 403):
            return errors.IronicUnavailable(
                "Ironic does not let this account do that with node %s: %s" % (self.ident, reason)
            )
        if status == 404:
            return errors.NodeNotReady(
                "Ironic has no node %s, or does not show it to this account" % self.ident
            )
        if status == 406:
            return errors.NodeNotReady(
                "Ironic's API goes up to version %s, expected %s: service steps came with "
                "Ironic 23.0"
                % (answer.headers.get("X-OpenStack-Ironic-API-Maximum-Version", "unknown"), version)
            )
        if status >= 500:
            return _Away("Ironic answers %d: %s" % (status, reason))
        return errors.NodeNotReady("Ironic refuses: %s" % reason)


class _Away(errors.IronicUnavailable):
    """No answer, this time: asking again may help."""


def is_service_fault(record: Record) -> bool:
    """Tell whether a failed service has put the node into its maintenance, and nobody after it."""
    is_as_it_failed = is_reason_of_error(record.maintenance_reason, record.last_error)
    return record.maintenance and record.fault == SERVICE_FAULT and is_as_it_failed


def is_reason_of_error(reason: str | None, error: str | None) -> bool:
    """Tell whether the reason of a node's maintenance may be what Ironic gave with the error.

    It writes the same text as both; a reason that somebody gives later leaves the fault as it is.
    Who is not shown the error is believed.
    """
    return not reason or not error or reason in error


def clear_service_fault(node: Node, record: Record) -> None:
    """Take a node out of the maintenance that a failed service put it into, and no other.

    :raises: NodeNotReady, IronicUnavailable
    """
    if not record.maintenance:
        return
    if not is_service_fault(record):
        raise errors.NodeNotReady(
            "node %s is in maintenance for another reason (%s): it is left so"
            % (record.name, record.maintenance_reason or record.fault or "none is given")
        )
    LOG.info("Taking node %(node)s out of maintenance", {"node": record.name})
    node.clear_maintenance()


def _shown(value: Any) -> Any:
    """Return a field's value, or None where the account may not see it: a lessee's, for example."""
    # Ironic 39: "** Redacted - requires ... permission. **"
    return None if isinstance(value, str) and value.startswith("** ") else value


def _last_error(raw: object) -> str | None:
    return None if raw and _shown(raw) is None else _text(raw)


def _steps(info: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    if "content" in info and _shown(info["content"]) is None:
        return None
    return tuple(dict(step) for step in info.get("service_steps") or ())


def _snapshot(info: Mapping[str, Any]) -> SnapshotRecord | None:
    # What a plug-in of another version remembers may be anything.
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError, errors.SnapshotError):
        return Book.parse(info.get(KEY)).record
    return None


def _text(value: object) -> str:
    return printable(str(value or ""))[:4000]


def _fault(answer: Any) -> str:
    """Return what Ironic says about an error: it wraps JSON in JSON, or does not."""
    try:
        message = answer.json()["error_message"]
        if isinstance(message, str):
            message = json.loads(message)
        return _text(message["faultstring"])
    except (KeyError, TypeError, ValueError):
        return _text(answer.text) or "no reason given"
