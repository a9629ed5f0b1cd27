# SPDX-License-Identifier: Apache-2.0
"""``make bench``: ways to make an image of the same disk, measured in turns in one run.

Each round runs every method once, so that what else the machine does hits all of them. The first
round also restores each image and compares it with the disk. It needs root, and a machine that
has nothing else to do.
"""

import argparse
import os
import platform
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import measure
from bench.plans import Plan, plans
from bench.report import report
from bench.results import Results
from bench.series import measure_series
from tests.lab import namespaces


def main() -> None:
    """Measure, print the report, and keep the results if that is asked for."""
    arguments = _parse()
    chosen = _chosen(arguments.size_gib, arguments.quick, arguments.series, arguments.only)
    # A bench that is asked to end takes its loop devices, groups and files with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    namespaces.enter()
    try:
        results = _measure(chosen, arguments.rounds, arguments.scratch, arguments.json)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing is left but the series that are complete") from None
    print(report(results))


def _measure(chosen: Sequence[Plan], rounds: int, scratch: str, kept: Path | None) -> Results:
    """Measure one series after another, and keep those that are complete in the file ``kept``."""
    results = Results(_machine(), os.cpu_count() or 1, rounds, [], [])
    for plan in chosen:
        with tempfile.TemporaryDirectory(prefix="ipa-snapshot-bench-", dir=scratch) as work:
            results.series.append(
                measure_series(
                    plan, rounds, Path(work), lambda: results.sha512_s.append(measure.sha512_s())
                )
            )
        if kept:
            results.write(kept)
    return results


def _parse() -> argparse.Namespace:
    names = [plan.name for plan in plans(1, quick=True)]
    parser = argparse.ArgumentParser(prog="bench.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--size-gib", type=int, default=20, help="of the disks; default: 20")
    parser.add_argument(
        "--series", action="append", choices=names, help="only this; may be given several times"
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT",
        help="only methods with this in their names; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="few files: to see that it works, not how fast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results")
    parser.add_argument(
        "--scratch", default="/var/tmp", metavar="DIR",
        help="where disks and images are, with 60 GB free; default: /var/tmp",
    )  # fmt: skip
    return parser.parse_args()


def _chosen(
    size_gib: int, quick: bool, series: Sequence[str] | None, only: Sequence[str] | None
) -> list[Plan]:
    found = []
    for plan in plans(size_gib, quick=quick):
        methods = tuple(
            method for method in plan.methods
            if not only or any(text in method.name for text in only)
        )  # fmt: skip
        if methods and (not series or plan.name in series):
            found.append(replace(plan, methods=methods))
    return found


def _machine() -> str:
    rows = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")),
                 platform.machine())  # fmt: skip
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return "%s, %d GiB of memory, Linux %s" % (model, memory, platform.release())


if __name__ == "__main__":
    main()
