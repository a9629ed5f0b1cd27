# SPDX-License-Identifier: Apache-2.0
"""Measure one series: its methods in turns, on one disk, against one server."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import machine_disk, measure
from bench.extent_list import read_list
from bench.methods import Bench, Method
from bench.plans import Plan
from bench.restore import Originals
from bench.results import Rates, Run, Series
from ipa_snapshot.devices.extents import Extents
from tests.lab import disks
from tests.lab.apache import Apache


def measure_series(plan: Plan, rounds: int, work: Path, on_round: Callable[[], None]) -> Series:
    """Make the disk of a plan and measure, in the empty directory ``work``.

    :param on_round: is called at the begin of each round.
    :raises: MethodFailed, NotRestored
    """
    _say("%s: making the disk" % plan.name)
    disk = machine_disk.make_disk(work / "disk.raw", plan.disk_size, plan.fill, plan.amount)
    before = os.getloadavg()[0]
    with opened(disk, work) as bench, contextlib.ExitStack() as stack:
        used, first_map_s = _map(bench, capped=plan.capped)
        rates = _rates(plan, bench, used)
        stack.enter_context(measure.link(capped=plan.capped))
        originals = Originals(disk.path, work / "used.raw", used, work)
        machine_disk.keep_used(disk, used, originals.used)
        runs: dict[str, list[Run]] = {method.name: [] for method in plan.methods}
        map_s = [first_map_s]
        for number in range(rounds):
            on_round()
            if number > 0:
                map_s.append(_map(bench, capped=plan.capped)[1])
            for method in plan.methods:
                run = _run(method, bench, capped=plan.capped)
                runs[method.name].append(run)
                _say("%s, round %d: %s: %.1f s" % (plan.name, number + 1, method.name, run.wall_s))
                if number == 0:
                    method.check(bench, originals)
                clear(bench)
    load = (before, os.getloadavg()[0])
    return Series(plan.name, plan.title, disk.size, used.total, rates, map_s, load, runs)


@contextlib.contextmanager
def opened(disk: disks.Disk, work: Path) -> Iterator[Bench]:
    """Attach the disk, and serve a directory of the empty one ``work``, during a ``with``."""
    store, local, ram = (work / name for name in ("store", "local", "ram"))
    for directory in (local, ram):
        directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", ram], check=True)
    try:
        with machine_disk.attached(disk) as attached, Apache(store, None, tls=False) as apache:
            yield Bench(attached, apache.url, store, local, ram)
    finally:
        subprocess.run(["umount", ram], check=True)


def _run(method: Method, bench: Bench, *, capped: bool) -> Run:
    stored = (bench.local if method.local else bench.store,)
    return measure.measured(
        partial(method.run, bench), bench.disk, stored, bench.local, capped=capped
    )


def _map(bench: Bench, *, capped: bool) -> tuple[Extents, float]:
    """Map the disk as a method would; return what is used, and the seconds that it took."""
    listed = bench.ram / "extents"
    said: list[str] = []

    def run(runner: measure.Runner) -> None:
        program = [sys.executable, "-m", "bench.extent_list", bench.disk.device, listed]
        said.extend(runner.pipe(program).split())

    measure.measured(run, bench.disk, (), bench.local, capped=capped)
    extents = read_list(listed)
    clear(bench)
    return extents, float(said[1])


def _rates(plan: Plan, bench: Bench, used: Extents) -> Rates:
    if plan.capped:
        return measure.imposed_rates()
    rates = measure.measured_rates(bench.disk, used, bench.url, bench.local)
    clear(bench)
    return rates


def clear(bench: Bench) -> None:
    """Remove what was stored; the server keeps its own directory there."""
    for directory in (bench.store, bench.local, bench.ram):
        for path in directory.iterdir():
            if path.is_file():
                path.unlink()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
