# SPDX-License-Identifier: Apache-2.0
"""Nova's Ironic driver with snapshots; Nova calls it ironic_snapshot.IronicSnapshotDriver."""

from nova.virt.ironic_snapshot.driver import IronicSnapshotDriver

__all__ = ["IronicSnapshotDriver"]
