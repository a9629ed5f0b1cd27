# SPDX-License-Identifier: Apache-2.0
"""The benchmark: each of its methods stores the disk, and it leaves nothing behind."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from bench import methods, restore
from bench.plot import plot
from bench.report import report
from bench.results import Rates, Results, Run, Series
from bench.targets import targets
from ipa_snapshot.devices.extents import Extents

ROOT = pathlib.Path(__file__).parents[2]
MIB, GB = 1024 * 1024, 10**9


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with a short name: nbdkit's socket is in it, whose path has 107 bytes at most."""
    return tmp_path_factory.mktemp("b")


def start(scratch: pathlib.Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.compare", "--quick", "--series", "capped"]
    command += ["--rounds", "1", "--scratch", str(scratch), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def traces(scratch: pathlib.Path) -> list[str]:
    found = [str(path) for path in pathlib.Path("/sys/fs/cgroup").glob("**/ipa-snapshot-bench-*")]
    found += [str(path) for path in scratch.iterdir()]
    for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        if str(scratch) in backing.read_text():
            found.append(str(backing))
    return found


def programs_of(bench: "subprocess.Popen[str]") -> list[str]:
    groups = pathlib.Path("/sys/fs/cgroup").glob("**/ipa-snapshot-bench-%d" % bench.pid)
    found = []
    with contextlib.suppress(OSError):  # they come and go
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                found.append(pathlib.Path("/proc", pid, "comm").read_text().strip())
    return found


def run(**values: float) -> Run:
    return Run(**{"wall_s": 10, "cpu_s": 8, "memory": MIB, "read": 3, "sent": 1, **values})  # type: ignore[arg-type]


def results(**runs: Run) -> Results:
    found = {getattr(methods, name): [measured] for name, measured in runs.items()}
    rates = Rates(500e6, 125e6, imposed=True)
    series = Series("capped", "A <disk>", 20 * GB, 3 * GB, rates, [1.0], (0.1, 0.2), found)
    return Results("a machine", 2, 1, [1.5], [series])


def test_every_method_stores_what_is_on_the_disk(
    tmp_path: pathlib.Path, scratch: pathlib.Path
) -> None:
    kept = tmp_path / "kept.json"
    bench = start(scratch, "--json", str(kept))
    out, err = bench.communicate()
    assert bench.returncode == 0, err
    found = Results.read(kept)
    assert list(found.series[0].runs) == [method.name for method in methods.METHODS]
    assert report(found).strip() == out.strip()
    used, disk_size = found.series[0].used, found.series[0].disk_size
    for name in (methods.STREAM, methods.STREAM_PLAIN):
        assert used * 0.9 < found.series[0].median(name).read < used * 1.3
    davfs = found.series[0].median(methods.DAVFS)
    assert davfs.read == pytest.approx(disk_size, rel=0.05)
    assert davfs.memory > davfs.sent * 0.9  # its cache is memory
    assert traces(scratch) == []


def test_an_interrupt_leaves_nothing(scratch: pathlib.Path) -> None:
    bench = start(scratch, "--only", "davfs2, zstd")
    assert bench.stderr is not None
    while "mount.davfs" not in programs_of(bench):
        assert bench.poll() is None, bench.stderr.read()
        time.sleep(0.05)
    os.kill(bench.pid, signal.SIGTERM)
    _out, err = bench.communicate()
    assert bench.returncode == 1
    assert err.splitlines()[-1].startswith("interrupted; nothing is left but")
    assert traces(scratch) == []


def test_a_byte_that_is_lost_is_noticed(tmp_path: pathlib.Path) -> None:
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.write_bytes(os.urandom(4 * MIB))
    originals = restore.Originals(disk, disk, Extents([(0, 4 * MIB)]), tmp_path)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*convert, disk, image], check=True)
    restore.check_qcow2(image, disk)
    restore.check_used(image, originals)
    subprocess.run(["qemu-io", "-c", "write -P 0 3M 512", "-f", "qcow2", image], check=True)
    with pytest.raises(restore.NotRestored):
        restore.check_qcow2(image, disk)
    with pytest.raises(restore.NotRestored):
        restore.check_used(image, originals)


def test_a_target_that_is_missed_is_called_so() -> None:
    good = results(STREAM=run(cpu_s=4), PARTCLONE=run(wall_s=20))
    assert {target.what: target.met for target in targets(good)}[
        "partclone, zstd, PUT: its wall by ours"
    ]
    assert "not met" not in [row for row in report(good).splitlines() if "partclone" in row][-1]
    bad = results(STREAM=run(cpu_s=8), PARTCLONE=run(wall_s=14))
    missed = [target.what for target in targets(bad) if not target.met]
    assert "partclone, zstd, PUT: its wall by ours" in missed
    assert "our CPU by that of partclone, zstd, PUT" in missed


def test_the_ideal_is_the_slowest_of_reading_sending_and_computing() -> None:
    series = results(STREAM=run()).series[0]
    assert series.ideal_s(run(read=5 * GB), 2, local=False) == 10
    assert series.ideal_s(run(sent=5 * GB), 2, local=False) == 40
    assert series.ideal_s(run(sent=5 * GB), 2, local=True) == 4


def test_the_picture_is_one(tmp_path: pathlib.Path) -> None:
    found = results(STREAM=run(), PARTCLONE=run(wall_s=20))
    picture = ElementTree.fromstring(plot(found, found.series[0]))
    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "A <disk>" in words and methods.STREAM in words and "20.0" in words
