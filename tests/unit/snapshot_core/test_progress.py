# SPDX-License-Identifier: Apache-2.0
"""The meter tells not too often and not too little, and what comes over the wire is checked."""

import pytest

from snapshot_core.progress import Meter, Progress


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Progress]:
    return []


@pytest.fixture
def meter(told: list[Progress], clock: Clock) -> Meter:
    return Meter(told.append, clock)


def test_every_phase_is_told_at_once(meter: Meter, told: list[Progress]) -> None:
    meter.phase("prepare")
    meter.phase("convert", 100)
    assert told == [Progress("prepare"), Progress("convert", 100)]


def test_within_half_a_second_nothing_more_is_told(
    meter: Meter, told: list[Progress], clock: Clock
) -> None:
    meter.phase("convert", 1000)
    clock.now += 0.49
    meter.done(10)
    meter.done(10)
    assert len(told) == 1
    clock.now += 0.01
    meter.done(10)
    meter.done(10)
    assert [progress.bytes_done for progress in told] == [0, 30]
    clock.now += 0.5
    meter.done(10)
    assert told[-1].bytes_done == 50


def test_how_far_a_phase_came_in_the_end_is_told_before_the_next(
    meter: Meter, told: list[Progress]
) -> None:
    meter.phase("convert", 100)
    meter.done(100)
    meter.phase("publish", 7)
    meter.phase("again")
    assert [(progress.phase, progress.bytes_done) for progress in told] == [
        ("convert", 0), ("convert", 100), ("publish", 0), ("again", 0),
    ]  # fmt: skip


def test_the_remaining_time_follows_from_the_speed_of_the_phase(
    meter: Meter, told: list[Progress], clock: Clock
) -> None:
    clock.now += 100  # what was before the phase does not count
    meter.phase("stream", 1000)
    clock.now += 10
    meter.done_to(250)
    assert told[-1] == Progress("stream", 1000, 250, 0, eta_s=30)
    clock.now += 10
    meter.done_to(1000)
    assert told[-1].eta_s == 0


def test_more_than_expected_takes_no_negative_time(
    meter: Meter, told: list[Progress], clock: Clock
) -> None:
    meter.phase("stream", 100)
    clock.now += 10
    meter.done(150)
    assert (told[-1].bytes_done, told[-1].eta_s) == (150, 0)


def test_without_a_total_or_a_beginning_no_time_is_told(
    meter: Meter, told: list[Progress], clock: Clock
) -> None:
    meter.phase("prepare")
    clock.now += 10
    meter.done(150)
    meter.phase("stream", 100)
    clock.now += 10
    meter.done(0)
    assert {progress.phase for progress in told} == {"prepare", "stream"}
    assert {progress.eta_s for progress in told} == {None}


def test_what_was_sent_is_counted_over_all_phases_and_what_was_done_in_each(
    meter: Meter, told: list[Progress], clock: Clock
) -> None:
    meter.phase("stream", 100)
    meter.done(60, sent=60)
    meter.phase("publish", 10)
    assert told[-1] == Progress("publish", 10, 0, 60)
    clock.now += 1
    meter.done_to(5, 70)
    assert (told[-1].bytes_done, told[-1].bytes_sent) == (5, 70)


@pytest.mark.parametrize(("sent", "expected"), [(True, [0, 1, 3]), (False, [0, 0, 0])])
def test_a_chunk_counts_as_done_when_the_next_one_is_asked_for(
    told: list[Progress], sent: bool, expected: list[int]
) -> None:
    ticks = iter(range(100))
    meter = Meter(told.append, lambda: float(next(ticks)))
    meter.phase("stream", 6)
    done, sent_so_far = [], []
    for _chunk in meter.count([b"a", b"bc", b"def"], sent=sent):
        done.append(told[-1].bytes_done)
        sent_so_far.append(told[-1].bytes_sent)
    assert done == [0, 1, 3]
    assert sent_so_far == expected
    assert told[-1].bytes_done == 6


def test_a_meter_that_tells_nobody_can_be_used() -> None:
    assert list(Meter(None).count([b"a", b"b"], sent=True)) == [b"a", b"b"]


@pytest.mark.parametrize(
    "progress", [Progress("prepare"), Progress("stream", 10, 5, 3), Progress("x", 1, 1, 1, 0)]
)
def test_what_goes_over_the_wire_arrives(progress: Progress) -> None:
    assert Progress.parse(progress.to_wire()) == progress


GOOD = {"phase": "stream", "bytes_total": 10, "bytes_done": 5, "bytes_sent": 3, "eta_s": 7}


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "stream",
        7,
        [],
        {},
        {**GOOD, "phase": None},
        {**GOOD, "phase": 7},
        {**GOOD, "phase": ["stream"]},
        *({**GOOD, key: value}
          for key in ("bytes_total", "bytes_done", "bytes_sent", "eta_s")
          for value in (True, False, -1, "5", 1.5, float("nan"), [], {}, 10**400)),
        *({**GOOD, key: None} for key in ("bytes_total", "bytes_done", "bytes_sent")),
        *({k: v for k, v in GOOD.items() if k != key} for key in GOOD if key != "eta_s"),
    ],
)  # fmt: skip
def test_what_a_hostile_agent_sends_instead_is_ignored(raw: object) -> None:
    assert Progress.parse(raw) is None


def test_unknown_keys_are_ignored_and_a_long_phase_is_cut() -> None:
    parsed = Progress.parse({**GOOD, "phase": "x" * 1000, "more": object()})
    assert parsed == Progress("x" * 40, 10, 5, 3, 7)
