# SPDX-License-Identifier: Apache-2.0
"""A program: where the CPU time of ``ipa-snapshot stream`` goes, by perf's samples of all threads.

perf looks at every thread 199 times a second. What it finds is summed by what the code belongs to:
the codec, the digest, the interpreter, and the kernel by what it was called for.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench import measure, methods
from bench.control_group import control_group
from bench.machine_disk import make_disk
from bench.plans import plans
from bench.report import table
from bench.series import clear, opened
from tests.lab import namespaces

_KERNEL = "[kernel.kallsyms]"
_CALL = "__x64_sys_"
# The first that occurs in the name of the file that the code is in.
_SUBJECTS = (
    ("/zstandard/", "zstd"),
    ("libz.", "zlib"),
    ("libcrypto", "sha512"),
    ("libc.so", "libc: copies, zero tests, memory"),
    ("python", "Python"),
)

# A function's name and the file that it is in
Frame = tuple[str, str]


def main() -> None:
    """Make a disk, take its image once under perf, and print the shares."""
    parser = argparse.ArgumentParser(prog="bench.profile", description=__doc__)
    parser.add_argument("--compression", choices=("zstd", "zlib", "none"), default="zstd")
    parser.add_argument("--size-gib", type=int, default=20, help="of the disk; default: 20")
    parser.add_argument("--uncapped", action="store_true", help="disk and link as they are")
    arguments = parser.parse_args()
    namespaces.enter()
    name = "uncapped" if arguments.uncapped else "capped"
    (plan,) = (plan for plan in plans(arguments.size_gib, quick=False) if plan.name == name)
    with tempfile.TemporaryDirectory(prefix="ipa-snapshot-bench-", dir="/var/tmp") as work:
        disk = make_disk(Path(work, "disk.raw"), plan.disk_size, plan.fill, plan.amount)
        with opened(disk, Path(work)) as bench, measure.link(capped=plan.capped):
            for _ in range(2):  # the first fills what the kernel caches of our own files
                samples = _sampled(bench, arguments.compression, capped=plan.capped)
                clear(bench)
    counts = Counter(_subject(sample) for sample in samples)
    rows = [(subject, "%.1f %%" % (100 * count / counts.total()))
            for subject, count in counts.most_common(14)]  # fmt: skip
    print("%d samples of 1/199 s" % counts.total())
    print("\n".join(table(("Where", "CPU"), rows)))


def _sampled(bench: methods.Bench, compression: str, *, capped: bool) -> list[list[Frame]]:
    data = bench.local / "perf.data"
    record = ["perf", "record", "-q", "-F", "199", "-g", "-o", data, "--"]
    record += methods.stream_command(bench.url, bench.disk.device, "--compression", compression)
    bench.disk.forget()
    with control_group() as group:
        if capped:
            measure.cap_disk(group, bench.disk)
        runner = measure.Runner(group, bench.local)
        runner.pipe(record)
        text = runner.pipe(["perf", "script", "-i", data, "-F", "ip,sym,dso"])
    return list(_samples(text))


def _samples(text: str) -> Iterator[list[Frame]]:
    """Yield the stack of each sample, innermost first: lines like ``ADDRESS name (file)``."""
    for block in text.split("\n\n"):
        frames = [line.split(maxsplit=1)[1].rpartition(" (") for line in block.splitlines() if line]
        if frames:
            yield [(name, file.rstrip(")")) for name, _, file in frames]


def _subject(stack: list[Frame]) -> str:
    _name, file = stack[0]
    if file == _KERNEL:
        calls = [name for name, where in stack if where == _KERNEL]
        called = next((name for name in calls if name.startswith(_CALL)), None)
        if called:
            return "kernel: %s" % called.removeprefix(_CALL)
        return (
            "kernel: page faults"
            if any("page_fault" in name for name in calls)
            else "kernel: other"
        )
    return next((subject for word, subject in _SUBJECTS if word in file), Path(file).name)


if __name__ == "__main__":
    main()
