# SPDX-License-Identifier: Apache-2.0
"""The implementations ``fake`` and ``no-snapshot``."""

from typing import TYPE_CHECKING, Any

from ironic.common import exception

from conductor_client.ironic.base import SnapshotInterface

if TYPE_CHECKING:
    from ironic.conductor.task_manager import TaskManager


class FakeSnapshot(SnapshotInterface):
    """Does nothing, at once and with success."""

    def get_properties(self) -> dict[str, str]:
        """See Ironic's BaseInterface."""
        return {}

    def validate(self, task: "TaskManager") -> None:
        """See Ironic's BaseInterface."""

    def snapshot(self, task: "TaskManager", image_ref: str, **options: Any) -> None:
        """See :meth:`.SnapshotInterface.snapshot`."""

    def continue_snapshot(self, task: "TaskManager") -> None:
        """See :meth:`.SnapshotInterface.continue_snapshot`."""

    def clean_up(self, task: "TaskManager") -> None:
        """See :meth:`.SnapshotInterface.clean_up`."""


class NoSnapshot(SnapshotInterface):
    """Refuses snapshots."""

    def get_properties(self) -> dict[str, str]:
        """See Ironic's BaseInterface."""
        return {}

    def validate(self, task: "TaskManager") -> None:
        """See Ironic's BaseInterface."""
        self._refuse(task)

    def snapshot(self, task: "TaskManager", image_ref: str, **options: Any) -> None:
        """See :meth:`.SnapshotInterface.snapshot`."""
        self._refuse(task)

    def continue_snapshot(self, task: "TaskManager") -> None:
        """See :meth:`.SnapshotInterface.continue_snapshot`."""

    def clean_up(self, task: "TaskManager") -> None:
        """See :meth:`.SnapshotInterface.clean_up`."""

    def _refuse(self, task: "TaskManager") -> None:
        raise exception.UnsupportedDriverExtension(
            driver=task.node.driver, extension=self.interface_type
        )
