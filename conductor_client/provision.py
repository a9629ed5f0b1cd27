# SPDX-License-Identifier: Apache-2.0
"""What a node is asked for: a service with one step, or a snapshot by the specification's verb.

Any Ironic takes the first. The verb needs one with the changes of ``integrations/ironic``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conductor_client import states
from conductor_client.node import API_VERSION, Record

# The verb, its states and the field snapshot_interface came with it.
VERB_VERSION = "1.116"


@dataclass(frozen=True)
class ServiceStep:
    """A service with this step: see :class:`conductor_client.node.Provision`."""

    step: Mapping[str, Any]
    version = API_VERSION
    failed_state = states.SERVICE_FAILED

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"target": "service", "service_steps": [self.step]}

    def may_be_in(self, record: Record) -> bool:
        """Tell whether the node's service that runs or failed is this one."""
        return record.may_be_in_step(self.step["args"])


@dataclass(frozen=True)
class Verb:
    """A snapshot into this image: see :class:`conductor_client.node.Provision`."""

    image_ref: str
    version = VERB_VERSION
    failed_state = states.SNAPSHOT_FAILED

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"target": "snapshot", "image_ref": self.image_ref}

    def may_be_in(self, record: Record) -> bool:
        """Tell whether the node's snapshot that goes on or failed is this one."""
        # One that failed may be forgotten, and some accounts are not shown it.
        ours = record.image_ref in (None, self.image_ref)
        return ours and record.provision_state in states.SNAPSHOT_STATES
