# SPDX-License-Identifier: Apache-2.0
"""Jobs run beside their caller, not too many at once, and end when they are not wanted."""

import threading
from collections.abc import Callable, Iterator

import pytest

from conductor_client import errors
from conductor_client.ironic.jobs import Cancelled, Job, Jobs
from snapshot_core.progress import OnProgress, Progress

WAIT_S = 30


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What blocked jobs wait for; they are let go in the end."""
    event = threading.Event()
    yield event
    event.set()


def blocked(release: threading.Event) -> Callable[[OnProgress], str]:
    def work(on_progress: OnProgress) -> str:
        assert release.wait(WAIT_S)
        on_progress(Progress("upload"))
        return "done"

    return work


def end(job: Job[str] | None) -> Job[str]:
    assert job is not None
    job._thread.join(WAIT_S)
    assert not job.running
    return job


def test_a_job_runs_until_it_has_a_result(release: threading.Event) -> None:
    jobs: Jobs[str] = Jobs()
    assert jobs.start("a", blocked(release), 1)
    job = jobs.find("a")
    assert job is not None
    assert job.running
    release.set()
    assert end(job).result() == "done"
    assert jobs.find("a") is job


def test_no_more_than_the_most_run_at_once(release: threading.Event) -> None:
    jobs: Jobs[str] = Jobs()
    assert jobs.start("a", blocked(release), 2)
    assert jobs.start("b", blocked(release), 2)
    assert not jobs.start("c", blocked(release), 2)
    assert jobs.find("c") is None
    release.set()
    end(jobs.find("a"))
    end(jobs.find("b"))
    assert jobs.start("c", blocked(release), 2)
    end(jobs.find("c"))


def test_a_forgotten_job_counts_until_it_has_ended(release: threading.Event) -> None:
    jobs: Jobs[str] = Jobs()
    jobs.start("a", blocked(release), 1)
    job = jobs.find("a")
    jobs.forget("a")
    assert jobs.find("a") is None
    assert not jobs.start("b", blocked(release), 1)
    release.set()
    with pytest.raises(Cancelled):
        end(job).result()
    assert jobs.start("b", blocked(release), 1)
    end(jobs.find("b"))


def test_forgetting_what_is_not_known_does_nothing() -> None:
    Jobs[str]().forget("a")


def test_an_error_is_the_job_s_result() -> None:
    def work(_on_progress: OnProgress) -> str:
        raise errors.ImageNotQueued("it is active")

    jobs: Jobs[str] = Jobs()
    jobs.start("a", work, 1)
    with pytest.raises(errors.ImageNotQueued, match="it is active"):
        end(jobs.find("a")).result()


def test_an_error_that_nobody_thought_of_is_one_of_ours_too() -> None:
    def work(_on_progress: OnProgress) -> str:
        raise RuntimeError("surprise")

    jobs: Jobs[str] = Jobs()
    jobs.start("a", work, 1)
    with pytest.raises(errors.UploadFailed, match="unexpected RuntimeError: surprise"):
        end(jobs.find("a")).result()
