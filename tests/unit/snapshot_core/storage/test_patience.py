# SPDX-License-Identifier: Apache-2.0
"""What is worth another try, how long it is waited for, and what is said meanwhile."""

import datetime
import email.utils
from collections.abc import Callable

import pytest
import tenacity

from snapshot_core import errors
from snapshot_core.storage import patience
from snapshot_core.storage.patience import (
    Away,
    outlive_outages,
    parse_retry_after,
    wait_if_asked_to,
)


class Clock:
    """Time that passes only while somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    monkeypatch.setattr(patience, "sleep", made.sleep)
    return made


class Failing:
    """Raises what it is given, one after the other, each after ``work_s``; then returns 7."""

    def __init__(self, clock: Clock, *failures: Exception, work_s: float = 0) -> None:
        self._clock = clock
        self._failures = list(failures)
        self._work_s = work_s

    def __call__(self) -> int:
        self._clock.now += self._work_s
        if self._failures:
            raise self._failures.pop(0)
        return 7


def test_an_outage_is_outlived_and_told_before_each_pause(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert outlive_outages()(Failing(clock, Away("gone"), Away("still gone"))) == 7
    assert caplog.messages == [
        "gone; trying again in %.1f s" % clock.pauses[0],
        "still gone; trying again in %.1f s" % clock.pauses[1],
    ]


def test_an_outage_is_outlived_for_15_minutes_and_not_longer(clock: Clock) -> None:
    with pytest.raises(Away, match="gone") as caught:
        outlive_outages()(Failing(clock, *[Away("gone")] * 1000))
    assert 880 < clock.now <= 900
    assert caught.value.word == "StorageUnavailable"


def test_time_that_the_first_attempt_took_is_not_the_outage_s(clock: Clock) -> None:
    assert outlive_outages()(Failing(clock, Away("gone"), work_s=3600)) == 7


@pytest.mark.parametrize(
    "failure", [errors.StorageUnavailable("403"), errors.WriteFailed("x"), OSError(), ValueError()]
)
def test_what_does_not_pass_by_itself_is_raised_at_once(clock: Clock, failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught:
        outlive_outages()(Failing(clock, failure))
    assert caught.value is failure
    assert clock.pauses == []


def test_who_asks_to_wait_is_waited_for_as_long_as_he_says(clock: Clock) -> None:
    assert wait_if_asked_to()(Failing(clock, Away("busy", 30), Away("busy", 1.5))) == 7
    assert clock.pauses == [30, 1.5]


@pytest.mark.parametrize("retrying", [wait_if_asked_to, outlive_outages])
@pytest.mark.parametrize("seconds", [0.0, 0.5, parse_retry_after("Mon, 01 Jan 2001 00:00:00 GMT")])
def test_who_asks_to_come_again_at_once_gets_a_pause_all_the_same(
    clock: Clock, retrying: Callable[[], tenacity.Retrying], seconds: float
) -> None:
    with pytest.raises(Away, match="busy"):
        retrying()(Failing(clock, *[Away("busy", seconds)] * 10000))
    assert min(clock.pauses) >= 1
    assert max(clock.pauses) <= 15
    assert 60 <= len(clock.pauses) <= 900
    assert 880 < clock.now <= 900


@pytest.mark.parametrize(("most_s", "pauses"), [(0, []), (9, []), (10, [10]), (39, [10] * 3)])
def test_waiting_may_be_limited(clock: Clock, most_s: float, pauses: list[float]) -> None:
    with pytest.raises(Away, match="busy"):
        wait_if_asked_to(most_s)(Failing(clock, *[Away("busy", 10)] * 100))
    assert clock.pauses == pauses


@pytest.mark.parametrize("failure", [Away("gone"), Away("busy", 901), Away("busy", 86400)])
def test_who_does_not_ask_or_asks_for_too_long_is_not_waited_for(
    clock: Clock, failure: Away
) -> None:
    with pytest.raises(Away):
        wait_if_asked_to()(Failing(clock, failure))
    assert clock.pauses == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("120", 120), ("9" * 5000, 999999999), ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
     (None, None), ("", None), ("soon", None), ("-3", None), ("1.5", None), ("\u0663", None),
     ("Mon, 99 Jan 2001 00:00:00 GMT", None), ("Fri, 31 Dec 9999 23:59:59 -2359", None)],
)  # fmt: skip
def test_a_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_a_retry_after_in_the_future_is_the_time_until_then() -> None:
    date = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
    found = parse_retry_after(email.utils.format_datetime(date, usegmt=True))
    assert found is not None
    assert 7000 < found <= 7200
