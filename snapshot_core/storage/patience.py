# SPDX-License-Identifier: Apache-2.0
"""How long, and when, a request is repeated to a storage that is away for a while."""

import datetime
import email.utils
import time
from collections.abc import Callable

import tenacity
from oslo_log import log

from snapshot_core import errors

LOG = log.getLogger(__name__)

# A server that is restarted or updated, and a network that was cut for ten minutes, are back by
# then. Only what was begun waits for so long: hours of it may be at stake.
OUTAGE_S = 900
_PAUSE = tenacity.wait_random_exponential(multiplier=0.5, max=15)
_LEAST_S = 1.0
sleep = time.sleep


class Away(errors.StorageUnavailable):
    """No answer, or one that says so: the same request may be answered a little later.

    ``retry_after_s`` is what the server asks to wait, in seconds, if it does.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def outlive_outages() -> tenacity.Retrying:
    """Return what repeats an idempotent call while the storage is away.

    What it raises in the end is the last error.
    """
    return _retrying(lambda exc: isinstance(exc, Away))


def wait_if_asked_to(most_s: float | None = None) -> tenacity.Retrying:
    """Return what repeats an idempotent call for as long as the server asks to come again later.

    :param most_s: for how many seconds at most; 0: not at all. By default for an outage's.
    """
    return _retrying(lambda exc: isinstance(exc, Away) and exc.retry_after_s is not None, most_s)


def parse_retry_after(text: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for; it may be a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        date = email.utils.parsedate_to_datetime(text).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())


def _retrying(
    is_worth_it: Callable[[BaseException], bool], most_s: float | None = None
) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_worth_it),
        stop=_OutageTooLong(OUTAGE_S if most_s is None else min(most_s, OUTAGE_S)),
        wait=_pause,
        sleep=sleep,
        before_sleep=_tell,
        reraise=True,
    )


class _OutageTooLong(tenacity.stop.stop_base):
    """Counts from the first failure: the attempt before it may have taken long, and rightly so."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._began: float | None = None

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        return now - self._began + state.upcoming_sleep > self._most_s


def _pause(state: tenacity.RetryCallState) -> float:
    error = _error(state)
    if not isinstance(error, Away) or error.retry_after_s is None:
        return _PAUSE(state)
    if error.retry_after_s >= _LEAST_S:
        return error.retry_after_s
    # "At once" is said in each answer, and so is a date that has passed by this machine's clock.
    return max(_LEAST_S, _PAUSE(state))


def _tell(state: tenacity.RetryCallState) -> None:
    LOG.warning(
        "%(reason)s; trying again in %(pause).1f s",
        {"reason": _error(state), "pause": state.upcoming_sleep},
    )


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
