# SPDX-License-Identifier: Apache-2.0
"""Ask a machine's agent what it has logged, and what its kernel sees."""

import base64
import io
import tarfile

import requests

from tests.machine.machine import Machine


def collect(machine: Machine) -> dict[str, str]:
    """Return the outputs of ``lsblk``, ``mount``, ``dmesg``, ``journal`` and others, by name."""
    answer = requests.post(
        machine.url + "/v1/commands",
        params={"wait": "true", "agent_token": machine.token},
        json={"name": "log.collect_system_logs", "params": {}},
        timeout=300,
    )
    answer.raise_for_status()
    packed = base64.b64decode(answer.json()["command_result"]["system_logs"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {
            member.name: file.read().decode(errors="replace")
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }
