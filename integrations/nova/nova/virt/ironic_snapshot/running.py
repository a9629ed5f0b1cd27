# SPDX-License-Identifier: Apache-2.0
"""One snapshot that is being taken: the task states that Nova shows, and its end from outside."""

import threading
from collections.abc import Callable
from typing import Any

from nova import exception
from nova.compute import task_states

from conductor_client import errors
from snapshot_core.progress import Progress

# Of the SDK's own upload, and of the conductor's plug-in.
_UPLOADS = ("upload", "uploading")
_RETURN = "return"


class Unwanted(errors.SnapshotError):
    """Nobody wants the image any more: the machine is brought back, and nothing is kept."""


class RunningSnapshot:
    """Follows a snapshot from its beginning to its end.

    :param update_task_state: Nova's own function of this name.
    :ivar refusal: why Nova did not take a task state: most often the instance is being deleted.
    """

    def __init__(self, update_task_state: Callable[..., None]) -> None:
        self.refusal: exception.NovaException | None = None
        self._update = update_task_state
        self._is_uploading = False
        self._is_returning = False
        self._unwanted = threading.Event()
        self._over = threading.Event()

    @property
    def is_unwanted(self) -> bool:
        """Whether it was told to end."""
        return self._unwanted.is_set()

    def begin(self) -> None:
        """Let Nova show that an image is going to be uploaded."""
        self._update(task_state=task_states.IMAGE_PENDING_UPLOAD)

    def tell(self, progress: Progress) -> None:
        """Take the progress.

        :raises: Unwanted
        """
        self._is_returning = self._is_returning or progress.phase == _RETURN
        self.check()
        if progress.phase in _UPLOADS:
            try:
                self.show_upload()
            except exception.NovaException as exc:
                self.refusal = exc
                raise Unwanted("Nova does not let the snapshot go on: %s" % exc) from exc

    def show_upload(self) -> None:
        """Let Nova show that the image is being uploaded, once."""
        if not self._is_uploading:
            self._is_uploading = True
            self._update(
                task_state=task_states.IMAGE_UPLOADING,
                expected_state=task_states.IMAGE_PENDING_UPLOAD,
            )

    def check(self) -> None:
        """Go on, if it may.

        :raises: Unwanted
        """
        # Once the SDK brings the machine back, it is to come to an end with that.
        if self._unwanted.is_set() and not self._is_returning:
            raise Unwanted("the snapshot was ended, since its instance is going away")

    def end(self, timeout_s: float) -> bool:
        """Let another thread's snapshot end, and tell whether it did so in time."""
        self._unwanted.set()
        return self._over.wait(timeout_s)

    def finish(self) -> None:
        """Say that it is over, however it went."""
        self._over.set()


class WatchedBaremetal:
    """Ironic's API, whose requests fail once their snapshot is not wanted any more.

    The SDK looks at the node every two seconds, whatever it waits for: so it learns of that soon.
    """

    def __init__(self, baremetal: Any, snapshot: RunningSnapshot) -> None:
        self._baremetal = baremetal
        self._snapshot = snapshot

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request.

        :raises: Unwanted
        """
        self._snapshot.check()
        return self._baremetal.request(*args, **kwargs)
