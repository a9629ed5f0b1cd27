# SPDX-License-Identifier: Apache-2.0
"""``make bench``: ways to make an image of the same disk, measured in turns in one run.

Each round runs every method once, so that what else the machine does hits all of them. Medians and
ratios are printed as a table. The network is a loopback interface, with ``--link`` a slower one.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.lab import disk_maker, disks, namespaces
from tests.lab.apache import Apache

_BIN = pathlib.Path(sys.executable).parent
_OS_LIKE = ("/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/share")


@dataclass(frozen=True)
class Run:
    """One run of one method; bytes and seconds."""

    wall_s: float
    cpu_s: float
    memory: int
    read: int
    sent: int


@dataclass(frozen=True)
class Bench:
    """What every method is given."""

    loop: str
    url: str
    store: pathlib.Path
    local: pathlib.Path

    def clear(self) -> None:
        """Remove what the last method stored."""
        for directory in (self.store, self.local):
            for path in directory.iterdir():
                if path.is_file():
                    path.unlink()


Method = Callable[[Bench], Run]


def ours(*options: str, local: bool = False) -> Method:
    """``ipa-snapshot stream`` with the given options."""

    def run(bench: Bench) -> Run:
        where = "file://%s" % bench.local if local else bench.url
        command = [_BIN / "ipa-snapshot", "stream", where, "image", "--device", bench.loop]
        wall_s, cpu_s, memory, out = measured([*command, "--json", *options])
        result = json.loads(out)
        if result["writer"] == "davfs":
            memory += result["size"]  # its cache, a tmpfs that no process is charged with
        return Run(wall_s, cpu_s, memory, result["bytes_read"], result["bytes_sent"])

    return run


def qemu_img(*options: str) -> Method:
    """``qemu-img convert`` into a local file: no network, no digest, no confirmation."""

    def run(bench: Bench) -> Run:
        image = bench.local / "image"
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, bench.loop, image]
        wall_s, cpu_s, memory, _out = measured(command)
        size = pathlib.Path("/sys/class/block", pathlib.Path(bench.loop).name, "size")
        return Run(wall_s, cpu_s, memory, int(size.read_text()) * 512, image.stat().st_size)

    return run


METHODS: dict[str, Method] = {
    "stream, zstd, PUT": ours(),
    "stream, zlib, PUT": ours("--compression", "zlib"),
    "stream, uncompressed, PUT": ours("--compression", "none"),
    "stream, zstd, file": ours(local=True),
    "davfs (qemu-img, zstd)": ours("--writer", "davfs"),
    "davfs (qemu-img, uncompressed)": ours("--writer", "davfs", "--compression", "none"),
    "dd, PUT": ours("--writer", "dd"),
    "qemu-img -c zstd, local file": qemu_img("-c", "-W", "-o", "compression_type=zstd"),
}


def measured(command: list[object]) -> tuple[float, float, int, str]:
    """Run a command; return wall and CPU seconds, peak memory in bytes, and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.monotonic()
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        _pid, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode != 0:
            raise SystemExit("%s failed: %s" % (command, err.read()))
        memory = usage.ru_maxrss * 1024
        return wall_s, usage.ru_utime + usage.ru_stime, memory, out.read()


def make_disk(path: pathlib.Path, size_gib: int) -> disks.Disk:
    """Make a disk with an operating system's files, and as many that were deleted."""
    disk = disk_maker.make_disk(path, size_gib * disk_maker.GIB, data_mib=20, junk_mib=20)
    root = disk.partition("root")
    with (
        disks.LoopDevice(path, root.offset, root.size) as loop,
        disks.mounted(loop.path, root.fs) as top,
    ):
        for directory in ("deleted", "kept"):
            for source in _OS_LIKE:
                target = top / directory / pathlib.Path(source).name
                shutil.copytree(source, target, symlinks=True, ignore_dangling_symlinks=True)
            disks.run("sync", "--file-system", top)
        shutil.rmtree(top / "deleted")
    return disk


@contextlib.contextmanager
def link(rate: str | None) -> Iterator[None]:
    """Slow the loopback interface down to ``rate``, in tc(8)'s words."""
    if rate is None:
        yield
        return
    tc = ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", "1mb"]
    subprocess.run([*tc, "latency", "400ms"], check=True)
    yield


def table(runs: dict[str, list[Run]]) -> str:
    """Return the medians as a table in Markdown, ratios to the first method's."""
    lines = [
        "| method | wall s | ratio | CPU s | ratio | read MB | sent MB | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base_wall = base_cpu = None
    for name, found in runs.items():
        wall = statistics.median(run.wall_s for run in found)
        cpu = statistics.median(run.cpu_s for run in found)
        base_wall, base_cpu = base_wall or wall, base_cpu or cpu
        last = found[-1]
        lines.append(
            "| %s | %.1f | %.2f | %.1f | %.2f | %d | %d | %d |"
            % (name, wall, wall / base_wall, cpu, cpu / base_cpu,
               last.read // 10**6, last.sent // 10**6, max(run.memory for run in found) >> 20)
        )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-gib", type=int, default=20)
    parser.add_argument(
        "--link", metavar="RATE", help="for example 1gbit; default: as fast as lo is"
    )
    parser.add_argument("--only", action="append", default=[], metavar="TEXT")
    arguments = parser.parse_args()
    namespaces.enter()
    chosen = {
        name: method for name, method in METHODS.items()
        if not arguments.only or any(text in name for text in arguments.only)
    }  # fmt: skip
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="ipa-snapshot-bench-", dir="/var/tmp") as scratch:
        work = pathlib.Path(scratch)
        (work / "local").mkdir()
        disk = make_disk(work / "disk.raw", arguments.size_gib)
        with (
            disks.LoopDevice(disk.path, read_only=True) as loop,
            Apache(work / "store", None, tls=False) as apache,
            link(arguments.link),
        ):
            bench = Bench(loop.path, apache.url, work / "store", work / "local")
            for number in range(arguments.rounds):
                for name, method in chosen.items():
                    runs[name].append(method(bench))
                    bench.clear()
                    print("round %d: %s: %.1f s" % (number + 1, name, runs[name][-1].wall_s),
                          file=sys.stderr)  # fmt: skip
    print(
        "%d rounds, disk of %d GiB, link %s, %d cores, load average %.1f at the end\n"
        % (arguments.rounds, arguments.size_gib, arguments.link or "not limited",
           os.cpu_count() or 0, os.getloadavg()[0])
    )  # fmt: skip
    print(table(runs))


if __name__ == "__main__":
    main()
