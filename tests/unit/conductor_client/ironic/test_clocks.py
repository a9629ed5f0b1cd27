# SPDX-License-Identifier: Apache-2.0
"""Each snapshot has a clock of its own, from the first time that something is so."""

from conductor_client.ironic.clocks import Clocks


class Time:
    """Passes as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_begins_when_it_is_asked_first() -> None:
    time = Time()
    clocks = Clocks(time)
    assert clocks.elapsed_s("a") == 0
    time.now += 5
    assert (clocks.elapsed_s("a"), clocks.elapsed_s("b")) == (5, 0)


def test_a_clock_that_was_stopped_begins_anew() -> None:
    time = Time()
    clocks = Clocks(time)
    clocks.elapsed_s("a")
    time.now += 5
    clocks.stop("a")
    clocks.stop("b")
    assert clocks.elapsed_s("a") == 0


def test_what_is_done_again_is_done_at_once_and_then_after_each_pause() -> None:
    time = Time()
    clocks = Clocks(time)
    done = []
    for _second in range(130):
        if clocks.is_due("a", 60):
            done.append(time.now)
        time.now += 1
    assert done == [1000, 1060, 1120]
    assert clocks.is_due("b", 60)
