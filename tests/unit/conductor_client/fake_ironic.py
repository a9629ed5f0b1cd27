# SPDX-License-Identifier: Apache-2.0
"""An Ironic API with one node that does what the test tells it, for ``AnsweringServer``."""

import json
from collections.abc import Callable
from typing import Any

import openstack
import openstack.connection

from tests.unit.conductor_client.fake_agent import as_json
from tests.unit.http_server import Answer, Request

PROJECT = "a-project"
UUID = "6f0b1e3a-52c8-4e0d-9c3b-0a1d2c3b4a59"
# A moment of a node's life: what changes of it, or what happens.
Moment = dict[str, Any] | Callable[[], None]


def fault(message: str, status: int = 400) -> Answer:
    # as Ironic 39 wraps it
    return as_json({"error_message": json.dumps({"faultstring": message})}, status)


class FakeGlance:
    """A Glance all of whose images have the one status; None: it has none.

    It answers so many requests with an error as it has ``outages`` before it.
    """

    def __init__(self, status: str | None = "queued", **fields: Any) -> None:
        self.status = status
        self.fields = fields
        self.outages = 0

    def __call__(self, request: Request) -> Answer:
        path = request.path.rstrip("/")
        if path == "/v2":
            return as_json({"version": _version("v2", request)})
        if self.outages:
            self.outages -= 1
            return Answer(500)
        if self.status is None:
            return Answer(404)
        image = {"id": path.rpartition("/")[2], "owner": PROJECT, "visibility": "private"}
        return as_json({**image, "status": self.status, **self.fields})


def _version(version: str, request: Request) -> dict[str, Any]:
    return {
        "id": version, "status": "CURRENT", "min_version": "1.1", "version": "1.115",
        "links": [{"rel": "self", "href": "http://%s/%s/" % (request.headers["Host"], version)}],
    }  # fmt: skip


class FakeIronic:
    """A node, active and on. Each look at it after a request brings its next moment.

    ``on_service`` are the moments after a service was asked for, ``on_abort`` those after an
    abort, ``on_shutdown`` those of a shutdown that takes its time. ``refusals`` answer requests in
    place of the node: by method and the path's end. ``shown`` is what an account sees in place of
    some fields; ``minor`` is up to which version 1.x the API goes.
    """

    def __init__(
        self,
        on_service: list[Moment] | None = None,
        on_abort: list[Moment] | None = None,
        **fields: Any,
    ) -> None:
        self.node: dict[str, Any] = {
            "uuid": UUID, "name": "node-1", "provision_state": "active", "power_state": "power on",
            "target_power_state": None, "reservation": None, "maintenance": False, "fault": None,
            "maintenance_reason": None, "last_error": None, "vendor_interface": "no-vendor",
            "instance_uuid": None, "owner": PROJECT, "driver_internal_info": {}, **fields,
        }  # fmt: skip
        self.on_service = on_service or []
        self.on_abort = on_abort if on_abort is not None else [{"provision_state": "active"}]
        self.on_shutdown: list[Moment] = []
        self.validation: dict[str, Any] = {"power": {"result": True}, "network": {"result": True}}
        self.refusals: dict[tuple[str, str], list[Answer]] = {}
        self.shown: dict[str, Any] = {}
        self.minor = 116
        self.asked: list[str] = []
        # By what the node was called, without repetitions.
        self.idents: list[str] = []
        self.services: list[dict[str, Any]] = []
        self._coming: list[Moment] = []

    def __call__(self, request: Request) -> Answer:
        path = request.path.rstrip("/")
        if path == "/v1":
            return as_json({"version": _version("v1", request)})
        ident, _slash, what = path.removeprefix("/v1/nodes/").partition("/")
        if ident not in self.idents:
            self.idents.append(ident)
        if waiting := self.refusals.get((request.method, what)):
            return waiting.pop(0)
        if int(request.headers["X-OpenStack-Ironic-API-Version"].partition(".")[2]) > self.minor:
            return Answer(406)
        if request.query:
            fields = request.query.removeprefix("fields=").split(",")
            return as_json({name: self.node[name] for name in fields if name in self.node})
        return self._answer(request.method, what, request.body)

    def _answer(self, method: str, what: str, body: bytes) -> Answer:
        match method, what:
            case "GET", "":
                self._go_on()
                return as_json({**self.node, **self.shown})
            case "GET", "validate":
                return as_json(self.validation)
            case "DELETE", "maintenance":
                self.asked.append("clear maintenance")
                self.node.update(maintenance=False, fault=None, maintenance_reason=None)
                return Answer(202)
            case "PUT", "states/power":
                return self._power(json.loads(body)["target"])
            case "PUT", "states/provision":
                return self._provision(json.loads(body))
        return fault("no such path: %s" % what, 404)

    def _go_on(self) -> None:
        if self._coming:
            moment = self._coming.pop(0)
            if callable(moment):
                moment()
            else:
                self.node.update(moment)

    def _power(self, target: str) -> Answer:
        self.asked.append(target)
        if target == "soft power off" and self.on_shutdown:
            self.node["target_power_state"] = "power off"
            self._coming = list(self.on_shutdown)
        else:
            self.node["power_state"] = target.removeprefix("soft ")
        return Answer(202)

    def _provision(self, body: dict[str, Any]) -> Answer:
        if body.get("disable_ramdisk"):
            # as Ironic 39, which drops this step
            self.asked.append("service without a ramdisk")
            info = {**self.node["driver_internal_info"], "service_steps": []}
            self.node.update(provision_state="servicing", driver_internal_info=info)
            self._coming = [{"provision_state": "active", "last_error": None}]
            return Answer(202)
        self.asked.append(body["target"])
        if body["target"] == "abort":
            self.node["power_state"] = "power on"
            self._coming = list(self.on_abort)
            return Answer(202)
        if body["target"] == "snapshot":
            info = {**self.node["driver_internal_info"], "snapshot_image_ref": body["image_ref"]}
            self.node.update(
                provision_state="snapshotting", power_state="power on", driver_internal_info=info
            )
            self._coming = list(self.on_service)
            return Answer(202)
        self.services += body["service_steps"]
        self.node.update(
            provision_state="servicing", power_state="power on",
            service_step=body["service_steps"][0],
            driver_internal_info={
                **self.node["driver_internal_info"], "service_steps": body["service_steps"],
            },
        )  # fmt: skip
        self._coming = list(self.on_service)
        return Answer(202)


def connect(url: str, **more: Any) -> openstack.connection.Connection:
    """Return a connection to the API at ``url``; it repeats nothing by itself."""
    return openstack.connect(
        load_yaml_config=False, load_envvars=False, auth_type="none", auth={"endpoint": url},
        baremetal_endpoint_override=url + "/v1", baremetal_status_code_retries=0,
        **more,
    )  # fmt: skip
