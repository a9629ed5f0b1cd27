# SPDX-License-Identifier: Apache-2.0
"""Progress for those who see nothing of the machine but the storage: an object beside the image."""

import json
import threading
from typing import Self

from oslo_log import log

from ipa_snapshot import errors
from snapshot_core.location import manifest_name
from snapshot_core.progress import Progress
from snapshot_core.storage.base import Storage

LOG = log.getLogger(__name__)

_INTERVAL_S = 5
_MOST_S = 30


class ProgressObject:
    """Keeps ``{"progress": ...}`` under the manifest's name, from :meth:`begin` to :meth:`end`.

    It is written in a thread of its own, so that a slow storage delays nothing, and a write that
    fails is only logged. When the ``with`` ends by an exception, the object is removed.
    """

    def __init__(self, storage: Storage, image_name: str) -> None:
        self._storage = storage
        self._name = manifest_name(image_name)
        self._now = Progress("prepare")
        self._over = threading.Event()
        # requests' sessions take this: each thread has a connection of its own from their pool
        self._thread = threading.Thread(target=self._refresh, name="snapshot-progress", daemon=True)

    def __call__(self, progress: Progress) -> None:
        """Take ``progress`` for the next time."""
        self._now = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        began = self._thread.ident is not None
        # After a failure the storage may be what hangs, and nothing of ours comes next.
        self.end(None if kind is None else _MOST_S)
        if kind is not None and began:
            self._storage.discard(self._name)

    def begin(self) -> None:
        """Write the object, and again every few seconds; the name must be claimed."""
        self._thread.start()

    def end(self, most_s: float | None = None) -> None:
        """Write no more; the object stays.

        A write that is under way is waited for: it would come after whatever is written next.

        :param most_s: for how long, in seconds; by default until it is over.
        """
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(most_s)

    def _refresh(self) -> None:
        while not self._over.is_set():
            content = json.dumps({"progress": self._now.to_wire()}).encode()
            try:
                self._storage.write(self._name, [content], len(content))
            except errors.SnapshotError as exc:
                LOG.debug("The progress is not in the storage: %(reason)s", {"reason": exc})
            self._over.wait(_INTERVAL_S)
