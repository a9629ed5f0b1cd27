# SPDX-License-Identifier: Apache-2.0
"""The hardware interface ``snapshot``, as its specification describes it."""

import abc
from typing import TYPE_CHECKING, Any

from ironic.drivers import base

if TYPE_CHECKING:
    # An Ironic with this interface imports it before its own task manager.
    from ironic.conductor.task_manager import TaskManager


class SnapshotInterface(base.BaseInterface, abc.ABC):
    """Takes a snapshot of a node's disk into an image."""

    interface_type = "snapshot"

    def validate_image_ref(self, task: "TaskManager", image_ref: str) -> None:
        """Make sure that a snapshot can go there, before the node is touched.

        :raises: Ironic's InvalidParameterValue, ServiceUnavailable
        """

    @abc.abstractmethod
    def snapshot(self, task: "TaskManager", image_ref: str, **options: Any) -> Any:
        """Begin a snapshot of the task's node, which has booted its ramdisk.

        :param image_ref: the UUID of the image that receives the data.
        :param options: those of the implementation.
        :returns: the state in which the node waits while the snapshot goes on, or None when it is
            done.
        """

    @abc.abstractmethod
    def continue_snapshot(self, task: "TaskManager") -> None:
        """Take the next step of a snapshot that goes on, if it can be taken now.

        Called again and again, with a shared lock on the node.
        """

    @abc.abstractmethod
    def clean_up(self, task: "TaskManager") -> None:
        """Remove what belongs to no snapshot that goes on; nothing may be there at all.

        Called again and again, with a shared lock on the node and in any state of it.
        """
