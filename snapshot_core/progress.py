# SPDX-License-Identifier: Apache-2.0
"""How far a snapshot has come: the value that travels, and the meter that makes it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_INTERVAL_S = 0.5
_MOST = 1 << 63


@dataclass(frozen=True)
class Progress:
    """One moment of a snapshot; sizes in bytes.

    ``bytes_done`` of ``bytes_total`` is how far the ``phase`` is, ``bytes_sent`` what has left
    for the storage, ``eta_s`` the seconds that the phase may still take (None: not known).
    """

    phase: str
    bytes_total: int = 0
    bytes_done: int = 0
    bytes_sent: int = 0
    eta_s: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the mapping that the agent's ``command_result`` holds."""
        return asdict(self)

    @classmethod
    def parse(cls, raw: object) -> "Progress | None":
        """Read what :meth:`to_wire` wrote; None for anything else, which a poller can ignore."""
        if not isinstance(raw, Mapping) or not isinstance(raw.get("phase"), str):
            return None
        numbers: dict[str, Any] = {
            key: raw.get(key) for key in ("bytes_total", "bytes_done", "bytes_sent")
        }
        if raw.get("eta_s") is not None:
            numbers["eta_s"] = raw["eta_s"]
        if not all(type(number) is int and 0 <= number < _MOST for number in numbers.values()):
            return None
        return cls(phase=raw["phase"][:40], **numbers)


OnProgress = Callable[[Progress], None]


class Meter:
    """Counts bytes, and tells ``on_progress`` at the start of a phase and then twice a second."""

    def __init__(
        self, on_progress: OnProgress | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_progress = on_progress or (lambda progress: None)
        self._clock = clock
        self._now = self._told = Progress("prepare")
        self._phase_began = self._last_told = clock()

    def phase(self, name: str, total: int = 0) -> None:
        """Begin a phase of ``total`` bytes (0: not known)."""
        if self._now != self._told:
            self._tell()  # how far the last phase came in the end
        self._phase_began = self._clock()
        self._now = Progress(name, bytes_total=total, bytes_sent=self._now.bytes_sent)
        self._tell()

    def done(self, count: int, sent: int = 0) -> None:
        """Count ``count`` more bytes as done, and ``sent`` more as sent."""
        self.done_to(self._now.bytes_done + count, self._now.bytes_sent + sent)

    def done_to(self, done: int, sent: int | None = None) -> None:
        """Set the number of bytes that are done, and of those sent if given."""
        total_sent = self._now.bytes_sent if sent is None else sent
        self._now = replace(self._now, bytes_done=done, bytes_sent=total_sent)
        if self._clock() - self._last_told >= _INTERVAL_S:
            self._tell()

    def count(self, chunks: Iterable[bytes], *, sent: bool) -> Iterator[bytes]:
        """Yield the ``chunks`` and count each as done when the next one is asked for."""
        for chunk in chunks:
            yield chunk
            self.done(len(chunk), len(chunk) if sent else 0)

    def _tell(self) -> None:
        now = self._told = self._now
        self._last_told = self._clock()
        if now.bytes_done and now.bytes_total:
            per_byte_s = (self._last_told - self._phase_began) / now.bytes_done
            left = max(0, now.bytes_total - now.bytes_done)
            now = replace(now, eta_s=round(per_byte_s * left))
        self._on_progress(now)
