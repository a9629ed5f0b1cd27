# SPDX-License-Identifier: Apache-2.0
"""Clients of services that tempest itself has none for."""

from ironic_snapshot_tempest_plugin.services.baremetal_client import BaremetalClient

__all__ = ["BaremetalClient"]
