# SPDX-License-Identifier: Apache-2.0
"""What was measured, as values, and as JSON to keep; bytes, and seconds."""

import dataclasses
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One run of one method.

    :param read: from the disk, by the kernel's own count.
    :param sent: through the network, headers and acknowledgements too; what was stored if the
        image went into a local file.
    """

    wall_s: float
    cpu_s: float
    memory: int
    read: int
    sent: int


@dataclass(frozen=True)
class Rates:
    """What disk and link can do at most, in bytes a second; imposed, or measured alone."""

    disk: float
    link: float
    imposed: bool


@dataclass(frozen=True)
class Series:
    """The runs of several methods with one disk, in turns.

    :param used: what of the disk matters, by the project's own map.
    :param map_s: how long that map took, once a round.
    :param load: the load average at the begin and at the end.
    """

    name: str
    title: str
    disk_size: int
    used: int
    rates: Rates
    map_s: list[float]
    load: tuple[float, float]
    runs: dict[str, list[Run]]

    def median(self, method: str) -> Run:
        """Return the medians of a method's runs, and the highest of their memory."""
        runs = self.runs[method]
        return Run(
            statistics.median(run.wall_s for run in runs),
            statistics.median(run.cpu_s for run in runs),
            max(run.memory for run in runs),
            int(statistics.median(run.read for run in runs)),
            int(statistics.median(run.sent for run in runs)),
        )

    def ideal_s(self, run: Run, cores: int, *, local: bool) -> float:
        """Return how long it takes what is slowest: to read, to send, or to compute.

        :param local: nothing was sent, so that the link does not matter.
        """
        link_s = 0.0 if local else run.sent / self.rates.link
        return max(run.read / self.rates.disk, link_s, run.cpu_s / cores)


@dataclass(frozen=True)
class Results:
    """All that one call of the benchmark measured.

    :param sha512_s: CPU seconds that the sha512 of 10^9 bytes takes, once a round.
    """

    machine: str
    cores: int
    rounds: int
    sha512_s: list[float]
    series: list[Series]

    def find(self, name: str) -> Series | None:
        """Return the series called ``name`` if it was run."""
        return next((series for series in self.series if series.name == name), None)

    def write(self, path: Path) -> None:
        """Keep the results as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what :meth:`write` wrote."""
        found = json.loads(path.read_text())
        return cls(**{**found, "series": [_series(row) for row in found["series"]]})


def _series(row: dict[str, Any]) -> Series:
    runs = {name: [Run(**run) for run in found] for name, found in row["runs"].items()}
    return Series(**{**row, "rates": Rates(**row["rates"]), "load": tuple(row["load"]),
                     "runs": runs})  # fmt: skip
