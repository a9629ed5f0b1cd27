# SPDX-License-Identifier: Apache-2.0
"""The errors of the machine's side; those that both sides know come from ``snapshot_core``."""

from snapshot_core.errors import (
    InvalidRequest,
    SnapshotError,
    StorageMismatch,
    StorageUnavailable,
    WriteFailed,
)

__all__ = [
    "Cancelled",
    "DeviceInUse",
    "DeviceNotFound",
    "InvalidRequest",
    "NotEnoughMemory",
    "ReadFailed",
    "SnapshotError",
    "StorageMismatch",
    "StorageUnavailable",
    "WriteFailed",
]


class DeviceNotFound(SnapshotError):
    """There is no disk that is certainly the one that is meant."""


class DeviceInUse(SnapshotError):
    """The disk is mounted or held, so that it may change while it is read."""


class ReadFailed(SnapshotError):
    """The disk could not be read; the message holds the offset where that is known."""


class NotEnoughMemory(SnapshotError):
    """The writer needs more memory, or room for its cache, than there is."""


class Cancelled(SnapshotError):
    """The conductor's side asked for an end, by an object beside the image."""
