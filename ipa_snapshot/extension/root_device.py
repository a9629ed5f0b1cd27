# SPDX-License-Identifier: Apache-2.0
"""Let the deployment's own code, inside the agent, say which disk is the root device."""

# The options of the agent must be known before its hardware module is imported.
import ironic_python_agent.config  # noqa: F401 # isort: skip
import inspect

import pyparsing
from ironic_python_agent import errors as agent_errors
from ironic_python_agent import hardware

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice
from ipa_snapshot.devices.root_device import Expectation, Hints, refuse_ambiguity


def find_root_device(expectation: Expectation) -> BlockDevice:
    """Return the root device of the node that the agent runs on.

    :raises: DeviceNotFound
    """
    try:
        name = hardware.dispatch_to_managers("get_os_install_device", permit_refresh=True)
    except agent_errors.DeviceNotFound as exc:
        raise errors.DeviceNotFound(str(exc.details)) from exc
    # What the agent's matching of hints lets out for an expression that does not fit the hint.
    except (ValueError, TypeError, SyntaxError, pyparsing.ParseException) as exc:
        raise errors.DeviceNotFound(
            "the agent cannot apply the node's root device hints: %s; correct them" % exc
        ) from exc
    # after the call above, which may have refreshed the node
    node = hardware.get_cached_node()
    candidates = _candidates(node)
    refuse_ambiguity(candidates, _hints(node), expectation)
    for device in candidates:
        if device.name == name:
            expectation.check(device)
            return device
    raise errors.DeviceNotFound(
        "the agent names %s as the root device, but does not list it" % name
    )


def _candidates(node: dict[str, dict[str, object]] | None) -> list[BlockDevice]:
    # IPA 9.7 knows one serial and one WWN of a disk, and of no such argument.
    known = inspect.signature(hardware.GenericHardwareManager.list_block_devices).parameters
    all_of_them = {"all_serial_and_wwn": True} if "all_serial_and_wwn" in known else {}
    if node is None:
        devices = hardware.dispatch_to_managers("list_block_devices", **all_of_them)
    else:
        devices = hardware.dispatch_to_managers(
            "list_block_devices_check_skip_list", node, **all_of_them
        )
    return [BlockDevice.of_agent(device.serialize()) for device in devices]


def _hints(node: dict[str, Hints] | None) -> Hints | None:
    if node is None:
        return None
    for place in ("instance_info", "properties"):
        if hints := node[place].get("root_device"):
            return dict(hints)
    return None
