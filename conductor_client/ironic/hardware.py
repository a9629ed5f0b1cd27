# SPDX-License-Identifier: Apache-2.0
"""Hardware types that differ from Ironic's own by the vendor interface ``snapshot``."""

from ironic.drivers.ipmi import IPMIHardware
from ironic.drivers.redfish import RedfishHardware

from conductor_client.ironic.vendor import SnapshotVendor


class SnapshotIPMIHardware(IPMIHardware):
    """The hardware type ``ipmi``, with snapshots."""

    @property
    def supported_vendor_interfaces(self) -> list[type]:
        """List of supported vendor interfaces, the default first."""
        return [SnapshotVendor, *super().supported_vendor_interfaces]


class SnapshotRedfishHardware(RedfishHardware):
    """The hardware type ``redfish``, with snapshots."""

    @property
    def supported_vendor_interfaces(self) -> list[type]:
        """List of supported vendor interfaces, the default first."""
        return [SnapshotVendor, *super().supported_vendor_interfaces]
