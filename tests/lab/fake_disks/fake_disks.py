# SPDX-License-Identifier: Apache-2.0
"""A hardware manager for ironic-python-agent whose disks are loop devices and whose NIC is made up.

IPA never considers loop devices; everything after the listing, such as its choice of the root
device, runs as it does on a machine.
"""

import inspect
import json
import os
import pathlib

# isort: off
from ironic_python_agent import config  # noqa: F401  (before hardware: it registers the options)
from ironic_python_agent import hardware
from ironic_python_agent import netutils
from ironic_python_agent import tls_utils
# isort: on


class FakeDiskHardwareManager(hardware.GenericHardwareManager):
    """The generic manager with the disks of the JSON file that LAB_FAKE_DISKS names."""

    HARDWARE_MANAGER_NAME = "FakeDiskHardwareManager"
    HARDWARE_MANAGER_VERSION = "1"

    def evaluate_hardware_support(self) -> int:
        """Win over the generic manager."""
        return int(hardware.HardwareSupport.SERVICE_PROVIDER)

    def list_block_devices(
        self, include_partitions: bool = False, all_serial_and_wwn: bool = False
    ) -> list[hardware.BlockDevice]:
        """Return the described disks; they never have partitions."""
        described = json.loads(pathlib.Path(os.environ["LAB_FAKE_DISKS"]).read_text())
        if all_serial_and_wwn:
            # IPA 13 then collects all the serials and wwns that lsblk and udev know.
            for disk in described:
                disk.update(serial=[disk["serial"]], wwn=[disk["wwn"]])
        # IPA 9.7 does not know the bus of a disk, nor its sectors.
        known = inspect.signature(hardware.BlockDevice).parameters
        return [
            hardware.BlockDevice(**{word: disk[word] for word in disk if word in known})
            for disk in described
        ]

    def list_network_interfaces(self) -> list[hardware.NetworkInterface]:
        """Return one interface: IPA waits a minute for the first one that has a MAC address."""
        mac = os.environ.get("LAB_FAKE_MAC", "52:54:00:11:22:33")
        return [hardware.NetworkInterface("lab0", mac, ipv4_address="127.0.0.1", has_carrier=True)]

    def generate_tls_certificate(self, ip_address: str) -> tls_utils.TlsCertificate:
        """Return the certificate that the agent's own code makes, in the agent's own directory.

        IPA 13 puts it below /run/ironic-python-agent, which two agents on one host would share.
        """
        directory = pathlib.Path(os.environ["LAB_FAKE_DISKS"]).parent
        cert, key = str(directory / "agent.crt"), str(directory / "agent.key")
        name = netutils.get_hostname()
        text = tls_utils._generate_tls_certificate(cert, key, name, ip_address)
        return tls_utils.TlsCertificate(text, cert, key)
