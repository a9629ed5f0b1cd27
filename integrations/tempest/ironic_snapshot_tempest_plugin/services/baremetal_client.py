# SPDX-License-Identifier: Apache-2.0
"""The few calls of Ironic's API that snapshots need."""

from collections.abc import Mapping, Sequence
from typing import Any

from oslo_serialization import jsonutils
from tempest.lib.common import rest_client

VERSION_HEADER = "X-OpenStack-Ironic-API-Version"
MAXIMUM_HEADER = "x-openstack-ironic-api-maximum-version"
# Service steps came with the first, the verb and the interface of snapshots with the second.
SERVICE_VERSION, SNAPSHOT_VERSION = (1, 87), (1, 116)


class BaremetalClient(rest_client.RestClient):
    """A client that speaks the API's newest version that these tests know."""

    _version: str | None = None

    def show_node(self, node: str) -> Mapping[str, Any]:
        """Return a node, by its UUID or its name."""
        response, body = self.get(f"v1/nodes/{node}")
        self.expected_success(200, response.status)
        return rest_client.ResponseBody(response, jsonutils.loads(body))

    def validate_node(self, node: str) -> Mapping[str, Any]:
        """Return what Ironic thinks of each interface of a node."""
        response, body = self.get(f"v1/nodes/{node}/validate")
        self.expected_success(200, response.status)
        return rest_client.ResponseBody(response, jsonutils.loads(body))

    def update_node(self, node: str, patch: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Change a node by a JSON patch."""
        response, body = self.patch(f"v1/nodes/{node}", jsonutils.dumps(patch))
        self.expected_success(200, response.status)
        return rest_client.ResponseBody(response, jsonutils.loads(body))

    def set_provision_state(self, node: str, target: str, **arguments: Any) -> None:
        """Ask for a change of the provision state, such as ``abort``."""
        body = jsonutils.dumps({"target": target, **arguments})
        response, _body = self.put(f"v1/nodes/{node}/states/provision", body)
        self.expected_success(202, response.status)

    def set_maintenance(self, node: str, reason: str) -> None:
        """Put a node into maintenance."""
        body = jsonutils.dumps({"reason": reason})
        response, _body = self.put(f"v1/nodes/{node}/maintenance", body)
        self.expected_success(202, response.status)

    def unset_maintenance(self, node: str) -> None:
        """Take a node out of maintenance."""
        response, _body = self.delete(f"v1/nodes/{node}/maintenance")
        self.expected_success(202, response.status)

    def knows_snapshots(self) -> bool:
        """Tell whether the API has the verb."""
        return self._maximum() >= SNAPSHOT_VERSION

    def get_headers(self, *arguments: Any, **keywords: Any) -> dict[str, str]:
        """Return the headers of a request."""
        headers: dict[str, str] = super().get_headers(*arguments, **keywords)
        if self._version is not None:
            headers[VERSION_HEADER] = self._version
        return headers

    def request(self, *arguments: Any, **keywords: Any) -> Any:
        """Send a request, with a version that the API knows."""
        if self._version is None:
            known = SNAPSHOT_VERSION if self.knows_snapshots() else SERVICE_VERSION
            self._version = "{}.{}".format(*known)
        return super().request(*arguments, **keywords)

    def _maximum(self) -> tuple[int, ...]:
        response, _body = super().request("GET", "v1/")
        return tuple(map(int, response[MAXIMUM_HEADER].split(".")))
