# SPDX-License-Identifier: Apache-2.0
"""Work that takes long, in threads: one call of a periodic task begins it, others ask after it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from oslo_log import log

from conductor_client import errors
from snapshot_core.progress import OnProgress, Progress

LOG = log.getLogger(__name__)

Result = TypeVar("Result")


class Cancelled(errors.SnapshotError):
    """Nobody wants the work's result any more."""


class Job(Generic[Result]):
    """One work in its own thread; it ends early when it tells of its progress after a cancel."""

    def __init__(self, key: str, work: Callable[[OnProgress], Result]) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self._result: Result | None = None
        self._error: errors.SnapshotError | None = None
        # A daemon, so that a conductor that is stopped does not wait hours for an upload: the
        # next one finds the record and begins it again.
        self._thread = threading.Thread(target=self._run, name="snapshot-" + key, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def result(self) -> Result | None:
        """Return what the work returned; raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def cancel(self) -> None:
        """Let the work end when it tells of its progress."""
        self._cancelled.set()

    def _progressed(self, progress: Progress) -> None:
        if self._cancelled.is_set():
            raise Cancelled("the work was cancelled in the phase %s" % progress.phase)

    def _run(self) -> None:
        try:
            self._result = self._work(self._progressed)
        except errors.SnapshotError as exc:
            self._error = exc
        except Exception as exc:
            LOG.exception("Unexpected error in %(thread)s", {"thread": self._thread.name})
            self._error = errors.UploadFailed("unexpected %s: %s" % (type(exc).__name__, exc))


class Jobs(Generic[Result]):
    """The jobs of one kind, by their keys; threads may share them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job[Result]] = {}
        # They count as long as they run.
        self._cancelled: list[Job[Result]] = []

    def find(self, key: str) -> Job[Result] | None:
        """Return the job of this key, whether it runs or has ended."""
        return self._jobs.get(key)

    def start(self, key: str, work: Callable[[OnProgress], Result], most: int) -> bool:
        """Start a job unless ``most`` run already, and tell whether it was started."""
        with self._lock:
            self._cancelled = [job for job in self._cancelled if job.running]
            running = [job for job in self._jobs.values() if job.running]
            if len(running) + len(self._cancelled) >= most:
                return False
            self._jobs[key] = Job(key, work)
            return True

    def forget(self, key: str) -> None:
        """Cancel the job of this key, if there is one, and forget it."""
        with self._lock:
            if job := self._jobs.pop(key, None):
                job.cancel()
                self._cancelled.append(job)
