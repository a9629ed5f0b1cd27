# SPDX-License-Identifier: Apache-2.0
"""A hardware manager for ironic-python-agent with a service step that does what a test says."""

import os
import time
from typing import Any

# isort: off
from ironic_python_agent import config  # noqa: F401  (before hardware: it registers the options)
from ironic_python_agent import errors
from ironic_python_agent import hardware
# isort: on


class LabStepsHardwareManager(hardware.HardwareManager):
    """Adds the step ``lab_noop``, and leaves everything else to other managers."""

    HARDWARE_MANAGER_NAME = "LabStepsHardwareManager"
    HARDWARE_MANAGER_VERSION = "1"

    def evaluate_hardware_support(self) -> int:
        """Serve any machine."""
        return int(hardware.HardwareSupport.SERVICE_PROVIDER)

    def get_service_steps(self, node: object, ports: object) -> list[dict[str, Any]]:
        """Return the one step."""
        return [
            {
                "step": "lab_noop",
                "interface": "deploy",
                "priority": 0,
                "reboot_requested": False,
                "abortable": True,
                "argsinfo": {
                    "until": {"description": "go on until this file exists", "required": False},
                    "fail": {"description": "fail with this message", "required": False},
                },
            }
        ]

    def lab_noop(
        self, node: object, ports: object, until: str | None = None, fail: str | None = None
    ) -> dict[str, Any]:
        """Wait for a file, if one is named, and then fail, if there is a message for it."""
        while until is not None and not os.path.exists(until):
            time.sleep(0.1)
        if fail is not None:
            raise errors.CommandExecutionError(fail)
        return {"waited_for": until}
