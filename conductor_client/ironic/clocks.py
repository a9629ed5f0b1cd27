# SPDX-License-Identifier: Apache-2.0
"""For how long something is so, by the snapshots that it is so for."""

import time
from collections.abc import Callable


class Clocks:
    """One clock for each snapshot; a conductor that takes a snapshot over begins anew."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since: dict[str, float] = {}

    def elapsed_s(self, generation: str) -> float:
        """Return for how long it is so, in seconds; it begins with the first call."""
        now = self._now()
        return now - self._since.setdefault(generation, now)

    def is_due(self, generation: str, every_s: float) -> bool:
        """Tell whether to do something again that is done at once and then ``every_s`` seconds."""
        due = generation not in self._since or self.elapsed_s(generation) >= every_s
        if due:
            self._since[generation] = self._now()
        return due

    def stop(self, generation: str) -> None:
        """It is not so any more."""
        self._since.pop(generation, None)
