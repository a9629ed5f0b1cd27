# SPDX-License-Identifier: Apache-2.0
"""The errors of the conductor's side; those that both sides know come from ``snapshot_core``."""

from snapshot_core.errors import (
    InvalidRequest,
    SnapshotError,
    StorageMismatch,
    StorageUnavailable,
    WriteFailed,
)

__all__ = [
    "AgentUnavailable",
    "CommandFailed",
    "ImageNotQueued",
    "InvalidRequest",
    "IronicUnavailable",
    "NodeNotReady",
    "ServiceFailed",
    "SnapshotError",
    "StorageMismatch",
    "StorageUnavailable",
    "UploadFailed",
    "WriteFailed",
]


class AgentUnavailable(SnapshotError):
    """The agent does not answer, does not know us, or cannot take snapshots."""


class CommandFailed(SnapshotError):
    """The agent accepted the command and failed; ``agent_word`` is its own error's name."""

    def __init__(self, agent_word: str, details: str) -> None:
        self.agent_word = agent_word
        super().__init__("the agent reports %s: %s" % (agent_word, details))


class ImageNotQueued(SnapshotError):
    """The image that is to receive the data does not wait for any."""


class UploadFailed(SnapshotError):
    """The image could not be stored where it was to go; if it is kept, ``kept`` is true."""

    kept = False


class IronicUnavailable(SnapshotError):
    """Ironic's API does not answer, or refuses us."""


class NodeGoesOn(IronicUnavailable):
    """Nobody tells any more how the node is, which may go on: its image is to be kept."""

    kept = True


class NodeNotReady(SnapshotError):
    """The node cannot be asked for a snapshot as it is: nothing was started."""


class ServiceFailed(SnapshotError):
    """Ironic ended the node's service before there was an image."""
