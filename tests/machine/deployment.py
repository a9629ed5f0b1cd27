# SPDX-License-Identifier: Apache-2.0
"""Deploy an image to a machine as Ironic does: by the agent's own code, through its API.

The commands are those of Ironic 39's ``direct`` deploy interface for images of whole disks.
"""

import contextlib
from typing import Any

import requests

from tests.machine.machine import Machine

# Emulated: what takes seconds on a machine takes minutes here.
_PATIENCE_S = 900


def deploy(machine: Machine, url: str, sha512: str, *, uefi: bool) -> None:
    """Write the qcow2 image at ``url`` to the machine's disk, and wait until it is off.

    :raises: RuntimeError with what the agent says when a command fails.
    """
    image = {
        "id": "snapshot",
        "node_uuid": "9c1f2a53-6bb2-4c0e-8f3a-0c1d2e3f4a5b",
        "urls": [url],
        "os_hash_algo": "sha512",
        "os_hash_value": sha512,
        "disk_format": "qcow2",
        "container_format": "bare",
        "stream_raw_images": True,
    }
    _run(machine, "standby.prepare_image", image_info=image)
    found = _run(machine, "standby.get_partition_uuids")
    if uefi:  # a BIOS finds the loader of a whole disk by itself
        _run(
            machine, "image.install_bootloader", root_uuid=found.get("root uuid"),
            efi_system_part_uuid=None, prep_boot_part_uuid=None, target_boot_mode="uefi",
        )  # fmt: skip
    # The agent may be gone before it has answered.
    with contextlib.suppress(requests.ConnectionError):
        _send(machine, "standby.power_off", {}, wait=False)
    machine.await_power_off()


def _run(machine: Machine, name: str, **params: object) -> dict[str, Any]:
    answer = _send(machine, name, params, wait=True)
    if answer["command_status"] != "SUCCEEDED":
        raise RuntimeError("%s: %s" % (name, answer["command_error"]))
    result: dict[str, Any] = answer["command_result"]
    return result


def _send(machine: Machine, name: str, params: dict[str, object], *, wait: bool) -> dict[str, Any]:
    answer = requests.post(
        machine.url + "/v1/commands/",
        params={"wait": str(wait).lower(), "agent_token": machine.token},
        json={"name": name, "params": params},
        timeout=_PATIENCE_S,
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
