# SPDX-License-Identifier: Apache-2.0
"""What the writer ``stream`` is to reach, and whether it did."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench import methods
from bench.results import Results, Run, Series

MIB = 1024 * 1024
GB = 10**9


@dataclass(frozen=True)
class Target:
    """A value that was measured, and its limit: at least or at most that."""

    what: str
    value: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value keeps to the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def row(self) -> tuple[str, str, str, str]:
        """Return the words for a table."""
        sign = ">=" if self.at_least else "<="
        return (
            self.what,
            "%s %g%s" % (sign, self.limit, self.unit),
            "%.3g%s" % (self.value, self.unit),
            "met" if self.met else "**not met**",
        )


def targets(results: Results) -> list[Target]:
    """Return the targets of the series that were run; each needs the methods that it compares."""
    found: list[Target] = []
    kinds: dict[str, Callable[[Results, Series], Iterator[Target]]] = {
        "capped": _capped, "noise": _noise, "growth-200": _growth, "growth-2000": _growth,
    }  # fmt: skip
    for series in results.series:
        if kind := kinds.get(series.name):
            found += kind(results, series)
    return found


def _capped(results: Results, series: Series) -> Iterator[Target]:
    got = _medians(series)
    used_gb = series.used / GB
    if ours := got.get(methods.STREAM):
        if davfs := got.get(methods.DAVFS):
            yield Target("qemu-img into davfs2: its wall by ours",
                         davfs.wall_s / ours.wall_s, 8, "x", at_least=True)  # fmt: skip
            yield Target("qemu-img into davfs2: its bytes sent by ours",
                         davfs.sent / ours.sent, 6, "x", at_least=True)  # fmt: skip
        if partclone := got.get(methods.PARTCLONE):
            yield Target("partclone, zstd, PUT: its wall by ours",
                         partclone.wall_s / ours.wall_s, 1.5, "x", at_least=True)  # fmt: skip
            yield Target(
                "our CPU by that of partclone, zstd, PUT", ours.cpu_s / partclone.cpu_s, 0.65
            )
        yield Target("bytes read by used", ours.read / series.used, 1.02)
        yield Target("bytes sent by used, OS-like data", ours.sent / series.used, 0.32)
        yield Target("wall by the ideal", _by_ideal(results, series, ours), 1.25)
        yield Target("CPU per used GB, zstd, without sha512",
                     _cpu_without_digest(results, ours) / used_gb, 3.0, " s")  # fmt: skip
        yield Target("memory", ours.memory / MIB, 256, " MiB")
    if plain := got.get(methods.STREAM_PLAIN):
        yield Target("CPU per used GB, uncompressed, without sha512",
                     _cpu_without_digest(results, plain) / used_gb, 1.2, " s")  # fmt: skip


def _noise(_results: Results, series: Series) -> Iterator[Target]:
    for method in (methods.STREAM, methods.STREAM_PLAIN):
        if ours := _medians(series).get(method):
            yield Target("bytes sent by used, incompressible data: %s" % method,
                         ours.sent / series.used, 1.01)  # fmt: skip


def _growth(results: Results, series: Series) -> Iterator[Target]:
    ours = series.median(methods.STREAM)
    limit = 384 if series.disk_size > 200 * GB else 256
    yield Target("memory, %s" % series.title, ours.memory / MIB, limit, " MiB")
    if series.disk_size > 200 * GB:
        yield Target("map, %s" % series.title, statistics.median(series.map_s), 5, " s")
        ideal_s = series.ideal_s(ours, results.cores, local=False)
        yield Target("wall beyond the ideal, %s" % series.title, ours.wall_s - ideal_s, 10, " s")


def _medians(series: Series) -> dict[str, Run]:
    return {method: series.median(method) for method in series.runs}


def _by_ideal(results: Results, series: Series, run: Run) -> float:
    return run.wall_s / series.ideal_s(run, results.cores, local=False)


def _cpu_without_digest(results: Results, run: Run) -> float:
    return run.cpu_s - statistics.median(results.sha512_s) * run.sent / GB
