# SPDX-License-Identifier: Apache-2.0
"""What runs on a tenant's disk is limited in memory and time, guesses no format, mounts nothing."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTERS = ("run", "lines", "follow", "background")
# Their time is that of a network or of a disk of any size; or they end with who started them.
WITHOUT_TIME_LIMIT = {
    ("snapshot_core/mounts.py", "umount"),
    ("snapshot_core/qemu_img.py", "qemu-img"),
    ("ipa_snapshot/devices/namespace.py", "unshare"),
    ("ipa_snapshot/devices/namespace.py", "nbdfuse"),
    ("ipa_snapshot/devices/lvm/view.py", "qemu-nbd"),
}
# The storage, and never a disk.
MOUNTS_OUTSIDE = {"snapshot_core/mounts.py"}


@dataclass(frozen=True)
class Start:
    """A call that starts a program: its words as far as they are constant, None where not."""

    where: str
    how: str
    words: tuple[str | None, ...]
    timeout: ast.expr | None
    inside: bool

    @property
    def program(self) -> str | None:
        words = [word for word in self.words if word is not None]
        if "nbdfuse" in words:  # behind env(1)
            return "nbdfuse"
        return words[0] if words else None


def starts() -> Iterator[Start]:
    for package in ("snapshot_core", "ipa_snapshot", "conductor_client"):
        for path in sorted((ROOT / package).rglob("*.py")):
            where = str(path.relative_to(ROOT))
            tree = ast.parse(path.read_text(encoding="utf-8"))
            lists = {
                target.id: node.value.elts
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                if _starts(node):
                    yield _start(where, node, lists)


def _starts(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "process"
        and node.func.attr in STARTERS
    )


def _start(where: str, call: ast.Call, lists: dict[str, list[ast.expr]]) -> Start:
    inside, words = False, []
    for argument in call.args:
        name = argument.value if isinstance(argument, ast.Starred) else None
        if name is not None and ast.unparse(name).split(".")[-1] == "inside":
            inside = True
        elif isinstance(name, ast.Name) and name.id in lists:
            words += [_constant(element) for element in lists[name.id]]
        else:
            words.append(_constant(argument))
    timeout = {keyword.arg: keyword.value for keyword in call.keywords}.get("timeout_s")
    return Start(where, call.func.attr, tuple(words), timeout, inside)


def _constant(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) else None


ALL = list(starts())


def test_the_walk_sees_the_programs() -> None:
    programs = {start.program for start in ALL}
    assert {"sfdisk", "blkid", "qemu-img", "qemu-nbd", "mount", "e2fsck", "dumpe2fs"} <= programs
    assert [start.where for start in ALL if start.inside and "mount" in start.words] != []


@pytest.mark.parametrize("start", ALL, ids=lambda start: "%s-%s" % (start.where, start.program))
def test_a_program_has_a_limit_of_time_or_a_reason_for_none(start: Start) -> None:
    is_limited = start.how in ("run", "lines") and not (
        isinstance(start.timeout, ast.Constant) and start.timeout.value is None
    )
    assert is_limited or (start.where, start.program) in WITHOUT_TIME_LIMIT


@pytest.mark.parametrize(
    "start", [start for start in ALL if (start.program or "").startswith("qemu")],
    ids=lambda start: start.where,
)  # fmt: skip
def test_qemu_is_always_told_the_format(start: Start) -> None:
    if start.program == "qemu-img":
        assert start.words[start.words.index("-f") + 1] == "raw"
    else:
        assert any((word or "").startswith("--format=") for word in start.words)


def test_nothing_of_a_disk_is_mounted_outside_of_a_namespace() -> None:
    outside = {start.where for start in ALL if start.program == "mount" and not start.inside}
    assert outside == MOUNTS_OUTSIDE
    options = [word or "" for start in ALL if start.inside and "xfs" in start.words
               for word in start.words]  # fmt: skip
    assert any({"nodev", "nosuid", "noexec"} <= set(word.split(",")) for word in options)


def test_memory_is_limited_for_whatever_is_started() -> None:
    # test_process shows that the limit holds; here, that there is no way around it.
    tree = ast.parse((ROOT / "snapshot_core/process.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    starting = ("subprocess.Popen", "processutils.execute")
    started = [call for call in calls if ast.unparse(call.func) in starting]
    assert len(started) == 3
    assert all("_limited(argv, memory)" in ast.unparse(call.args[0]) for call in started)
