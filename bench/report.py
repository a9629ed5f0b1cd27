# SPDX-License-Identifier: Apache-2.0
"""The results as reStructuredText, which is as good to read on a terminal as in the docs."""

import statistics
from collections.abc import Iterator, Sequence

from bench import methods
from bench.results import Results, Series
from bench.targets import targets

LOCAL = {method.name for method in methods.METHODS if method.local}


def report(results: Results) -> str:
    """Return the tables of all that was measured, and of the targets."""
    lines = [
        "On %s, %d cores; medians of %d rounds in turns (of memory, the most)."
        % (results.machine, results.cores, results.rounds),
        "The sha512 of 1 GB alone takes %.2f CPU s." % statistics.median(results.sha512_s),
        "",
    ]
    compared = [one for one in results.series if not one.name.startswith("growth")]
    for series in compared:
        lines += [
            *_headline(series.title),
            *_conditions(series),
            "",
            *_methods(results, series),
            "",
        ]
    grown = [one for one in results.series if one.name.startswith("growth")]
    if grown:
        lines += [*_headline("The same files on larger disks"), *_conditions(grown[0]), ""]
        lines += [*_growth(results, grown), ""]
    if rows := [target.row() for target in targets(results)]:
        lines += _headline("Targets")
        lines += table(("What", "Target", "Measured", ""), rows)
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = "  ".join("=" * max(width, 1) for width in widths)

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    return [rule, line(head), rule, *map(line, rows), rule]


def _headline(text: str) -> list[str]:
    return [text, "-" * len(text), ""]


def _conditions(series: Series) -> Iterator[str]:
    rates = series.rates
    how = "held to" if rates.imposed else "not limited, and alone reaching"
    yield "Disk and link %s %d and %d MB/s; load average %.1f before and %.1f after." % (
        how, rates.disk // 10**6, rates.link // 10**6, *series.load,
    )  # fmt: skip
    yield "Of the disk's %d MB, %d MB are used." % (series.disk_size // 10**6, series.used // 10**6)


def _methods(results: Results, series: Series) -> list[str]:
    head = ("Method", "Wall, s", "by ideal", "ratio", "CPU, s", "ratio",
            "Read, MB", "Sent, MB", "Memory, MiB")  # fmt: skip
    first = series.median(next(iter(series.runs)))
    rows = []
    for method in series.runs:
        run = series.median(method)
        ideal_s = series.ideal_s(run, results.cores, local=method in LOCAL)
        rows.append((
            method, "%.1f" % run.wall_s, "%.2f" % (run.wall_s / ideal_s),
            "%.2f" % (run.wall_s / first.wall_s), "%.1f" % run.cpu_s,
            "%.2f" % (run.cpu_s / first.cpu_s), "%d" % (run.read / 10**6),
            "%d" % (run.sent / 10**6), "%d" % (run.memory >> 20),
        ))  # fmt: skip
    return table(head, rows)


def _growth(results: Results, grown: Sequence[Series]) -> list[str]:
    head = ("Disk", "Used, MB", "Map, s", "Wall, s", "Ideal, s", "CPU, s", "Read, MB", "Sent, MB",
            "Memory, MiB")  # fmt: skip
    rows = []
    for series in grown:
        run = series.median(methods.STREAM)
        rows.append((
            series.title, "%d" % (series.used / 10**6), "%.1f" % statistics.median(series.map_s),
            "%.1f" % run.wall_s, "%.1f" % series.ideal_s(run, results.cores, local=False),
            "%.1f" % run.cpu_s, "%d" % (run.read / 10**6), "%d" % (run.sent / 10**6),
            "%d" % (run.memory >> 20),
        ))  # fmt: skip
    return table(head, rows)
