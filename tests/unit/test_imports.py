# SPDX-License-Identifier: Apache-2.0
"""Data goes one way: the packages' imports say so, and programs start in one module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("snapshot_core", "ipa_snapshot", "conductor_client")
# Functions of the module os that start a program.
STARTERS = ("system", "popen", "exec", "spawn", "posix_spawn", "fork")


def _modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def _imported(path: Path) -> Iterator[str]:
    """Yield the full dotted names that a module imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "%s: imports are absolute here" % path
            yield from ("%s.%s" % (node.module, alias.name) for alias in node.names)


IMPORTS = [
    (str(path.relative_to(ROOT)), imported) for path in _modules() for imported in _imported(path)
]


def _within(imported: str, *packages: str) -> bool:
    return any(imported == package or imported.startswith(package + ".") for package in packages)


def _offences(where: str, *forbidden: str, but_for: tuple[str, ...] = ()) -> list[str]:
    return [
        "%s imports %s" % (path, imported)
        for path, imported in IMPORTS
        if path.startswith(where) and _within(imported, *forbidden)
        if not path.startswith(but_for or ("-",))
    ]


def test_the_walk_sees_the_imports() -> None:
    assert ("ipa_snapshot/capture.py", "snapshot_core.storage.open_storage") in IMPORTS
    assert ("conductor_client/images.py", "openstack.exceptions") in IMPORTS
    assert len({path.partition("/")[0] for path, _imported in IMPORTS}) == len(PACKAGES)
    assert _offences("ipa_snapshot/", "snapshot_core.storage") != []


@pytest.mark.parametrize(
    ("where", "forbidden", "but_for"),
    [
        ("snapshot_core/", ("ipa_snapshot", "conductor_client"), ()),
        ("conductor_client/", ("ipa_snapshot",), ()),
        ("conductor_client/", ("ironic",), ("conductor_client/ironic/",)),
        ("ipa_snapshot/", ("conductor_client",), ()),
        ("", ("ironic_python_agent",), ("ipa_snapshot/extension/",)),
        (
            "ipa_snapshot/devices/",
            ("ipa_snapshot.writers", "ipa_snapshot.images", "snapshot_core.storage",
             "ipa_snapshot.capture", "ipa_snapshot.request", "ipa_snapshot.extension"),
            (),
        ),
        ("ipa_snapshot/images/", ("ipa_snapshot.writers", "snapshot_core.storage"), ()),
        ("ipa_snapshot/writers/", ("ipa_snapshot.capture", "ipa_snapshot.extension"), ()),
        ("", ("subprocess", "oslo_concurrency.processutils", "pty"), ("snapshot_core/process.py",)),
        ("", ("openstack", "keystoneauth1"), ("conductor_client/",)),
        ("", ("tests",), ()),
    ],
)  # fmt: skip
def test_imports_go_one_way(
    where: str, forbidden: tuple[str, ...], but_for: tuple[str, ...]
) -> None:
    assert _offences(where, *forbidden, but_for=but_for) == []


def test_no_module_starts_a_program_through_os() -> None:
    found = [
        "%s: os.%s" % (path.relative_to(ROOT), node.attr)
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr.startswith(STARTERS)
    ]
    assert found == []
    assert [
        line for line in IMPORTS if _within(line[1], *("os." + name for name in STARTERS))
    ] == []
