# SPDX-License-Identifier: Apache-2.0
"""What can be said about the element without building a ramdisk: it fits the code, and itself."""

import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ELEMENT = ROOT / "dib-elements/ipa-snapshot"
CHECK = ELEMENT / "finalise.d/80-ipa-snapshot"
HOOKS = sorted(path for path in ELEMENT.glob("*.d/*") if path.parent.name != "environment.d")
STARTERS = {"run", "follow", "lines", "background"}
ESSENTIAL = {"cat", "env"}
# What other programs start: mount, and those that limit a program or put it into a namespace.
INDIRECT = {"mount.davfs", "mount.nfs", "nbdfuse", "nbdkit", "nsenter", "prlimit"}


def programs() -> dict[str, list[str]]:
    """Return the programs that the element's check looks for, by package."""
    [table] = re.findall(r"<<'PROGRAMS'\n(.*?)\nPROGRAMS", CHECK.read_text(), re.DOTALL)
    return {row.split()[0]: row.split()[1:] for row in table.splitlines()}


def packages() -> set[str]:
    return set(yaml.safe_load((ELEMENT / "package-installs.yaml").read_text()))


def started() -> set[str]:
    """Return the programs that the agent's side of the code starts, as far as it names them."""
    found: set[str] = set()
    for package in ("snapshot_core", "ipa_snapshot"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            found |= {word for call in _calls(tree) if (word := _program(call, tree))}
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="process"), attr=name)):
                if name in STARTERS:
                    yield node


def _program(call: ast.Call, tree: ast.AST) -> str | None:
    for argument in call.args:
        match argument:
            case ast.Constant(value=str(word)):
                return word
            case ast.Starred(value=ast.Name(id="argv")):
                return _first_of_argv(tree)
    return None


def _first_of_argv(tree: ast.AST) -> str | None:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(
                targets=[ast.Name(id="argv")],
                value=ast.List(elts=[ast.Constant(value=str(word)), *_]),
            ):
                return word
    return None


def test_the_walk_sees_the_programs_that_are_started() -> None:
    seen = started()
    # by themselves, in a namespace, and as argv
    assert {"sfdisk", "qemu-nbd", "xfs_db"} <= seen
    assert len(seen) > 15


def test_every_program_that_the_code_starts_is_checked_for() -> None:
    checked = {program for row in programs().values() for program in row} | ESSENTIAL
    for word in started() | INDIRECT:
        assert any(re.fullmatch(word.replace("*", ".*"), program) for program in checked), word


def test_every_package_is_installed_for_a_program_and_every_program_has_its_package() -> None:
    assert set(programs()) == packages()
    assert all(programs().values())


def test_the_programs_are_of_these_packages() -> None:
    # Debian's own word; nfs-common alone need not be where these tests run.
    for package, names in programs().items():
        for name in names:
            if package == "nfs-common" and shutil.which(name) is None:
                continue
            command = ["dpkg-query", "--search", "*bin/" + name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert package + ":" in done.stdout, name


def test_other_families_have_the_names_that_bindep_knows() -> None:
    known: dict[str, set[str]] = {"dpkg": set(), "rpm": set()}
    for line in (ROOT / "bindep.txt").read_text().splitlines():
        if row := re.fullmatch(r"([a-z][\w.+-]+)(?: \[(.*)\])?", line):
            for platform, names in known.items():
                if "platform:" not in (row[2] or "") or "platform:" + platform in row[2]:
                    names.add(row[1])
    mapped = json.loads((ELEMENT / "pkg-map").read_text())
    assert set(mapped) == {"family", "distro"}
    assert set(mapped["family"]) == {"redhat"}
    redhat = mapped["family"]["redhat"]
    for package in packages() - {"mount"}:
        assert package in known["dpkg"]
        assert redhat.get(package, package) in known["rpm"]
    for names in (redhat, *mapped["distro"].values()):
        assert set(names) <= packages()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.parent.name)
def test_a_hook_is_a_script_that_runs_and_stops_at_an_error(hook: Path) -> None:
    lines = hook.read_text().splitlines()
    assert lines[:2] == ["#!/bin/bash", "# SPDX-License-Identifier: Apache-2.0"]
    assert {"set -eu", "set -o pipefail"} <= set(lines)
    assert hook.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", hook], check=True)


# As diskimage-builder 3.43's: a package that no map has is itself, or an error.
_PKG_MAP = """#!/bin/sh
case $* in
    *"--element ipa-snapshot btrfs-progs") ;;
    "--missing-ok --element ipa-snapshot "*) echo "$4" ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def check_without(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs the check where programs are missing, and returns its message.

    btrfs-progs is mapped to nothing; nbdkit has no plugin, so that the check ends behind the loop.
    """

    def check(*missing: str) -> str:
        there = {name: "#!/bin/sh\nexit 1\n" for row in programs().values() for name in row}
        for name, script in {**there, "pkg-map": _PKG_MAP}.items():
            if name not in missing:
                (tmp_path / name).write_text(script)
                (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            ["/bin/bash", CHECK], env={"PATH": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        return done.stderr

    return check


def test_a_program_that_is_missing_fails_the_build(check_without: Callable[..., str]) -> None:
    assert check_without("sfdisk") == "ipa-snapshot: sfdisk is missing, of fdisk\n"


def test_what_a_distribution_does_not_have_is_not_missed(
    check_without: Callable[..., str],
) -> None:
    assert check_without("btrfs") == "ipa-snapshot: nbdkit has no plugin file\n"


def test_packages_that_cannot_be_mapped_fail_the_build(check_without: Callable[..., str]) -> None:
    assert "pkg-map: command not found" in check_without("pkg-map")


def test_the_readme_has_every_variable() -> None:
    used = set()
    for path in (*HOOKS, *ELEMENT.glob("environment.d/*")):
        used |= set(re.findall(r"DIB_IPA_SNAPSHOT_\w+", path.read_text()))
    readme = (ELEMENT / "README.rst").read_text()
    assert used == set(re.findall(r"``(DIB_IPA_SNAPSHOT_\w+)``", readme))


def _lay_out(hooks: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run the hook that runs on the build host."""
    hooks.mkdir()
    given = {"DIB_IPA_SNAPSHOT_" + name: str(value) for name, value in variables.items()}
    defaults = ELEMENT / "environment.d/10-ipa-snapshot.bash"
    return subprocess.run(
        ["bash", "-c", '. "$0"; exec "$1"', defaults, ELEMENT / "extra-data.d/20-ipa-snapshot"],
        env={
            "PATH": "%s:%s" % (Path(sys.executable).parent, os.environ["PATH"]),
            "TMPDIR": tempfile.gettempdir(), "TMP_HOOKS_PATH": str(hooks), **given,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_the_variables_name_is_laid_out_for_the_chroot(tmp_path: Path) -> None:
    for name in ("snapshot-1-py3-none-any.whl", "authority.crt", "auth.yaml"):
        (tmp_path / name).write_text(name)

    done = _lay_out(
        tmp_path / "hooks", SOURCE=tmp_path / "snapshot-1-py3-none-any.whl",
        CACERT=tmp_path / "authority.crt", AUTH_FILE=tmp_path / "auth.yaml",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    laid = {path.name: path for path in (tmp_path / "hooks/ipa-snapshot").iterdir()}
    assert set(laid) == {"snapshot-1-py3-none-any.whl", "ca.pem", "account.yaml"}
    assert laid["account.yaml"].read_text() == "auth.yaml"
    assert stat.S_IMODE(laid["account.yaml"].stat().st_mode) == 0o600


def test_a_file_that_is_not_there_fails_the_build_on_the_host(tmp_path: Path) -> None:
    for name in ("SOURCE", "CACERT", "AUTH_FILE"):
        given = {"SOURCE": "ipa-snapshot", name: tmp_path / "missing.whl"}
        done = _lay_out(tmp_path / name, **given)
        assert done.returncode != 0
        assert "missing.whl" in done.stderr


# Builds as setuptools does: it leaves its directories in the tree, and takes what lies in them.
_BACKEND = """
import pathlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    built = pathlib.Path("build")
    built.mkdir(exist_ok=True)
    pathlib.Path("snapshot.egg-info").mkdir(exist_ok=True)
    (built / "new.py").touch()
    with zipfile.ZipFile(pathlib.Path(directory, "snapshot-1-py3-none-any.whl"), "w") as wheel:
        for path in built.iterdir():
            wheel.writestr(path.name, "")
        for path in pathlib.Path().iterdir():
            wheel.writestr("tree/" + path.name, "")
        about = "Metadata-Version: 2.1\\nName: snapshot\\nVersion: 1\\n"
        wheel.writestr("snapshot-1.dist-info/METADATA", about)
        wheel.writestr("snapshot-1.dist-info/WHEEL", "Wheel-Version: 1.0\\n")
        wheel.writestr("snapshot-1.dist-info/RECORD", "")
    return "snapshot-1-py3-none-any.whl"
"""


def test_a_wheel_of_a_tree_is_built_beside_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    for name in ("build", ".git", ".venv"):
        (tree / name).mkdir(parents=True)
    (tree / "build/deleted.py").touch()
    (tree / "backend.py").write_text(_BACKEND)
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (tree / "pyproject.toml").write_text(system)
    before = sorted(tree.rglob("*"))

    done = _lay_out(tmp_path / "hooks", SOURCE=tree)

    assert done.returncode == 0, done.stderr
    assert sorted(tree.rglob("*")) == before
    [wheel] = (tmp_path / "hooks/ipa-snapshot").iterdir()
    with zipfile.ZipFile(wheel) as made:
        names = {name for name in made.namelist() if "dist-info" not in name}
    assert names - {"tree/__pycache__"} == {
        "new.py", "tree/.git", "tree/backend.py", "tree/build", "tree/pyproject.toml",
        "tree/snapshot.egg-info",
    }  # fmt: skip


def test_a_requirement_is_left_to_the_package_index(tmp_path: Path) -> None:
    done = _lay_out(tmp_path / "hooks", SOURCE="ipa-snapshot==1.0")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "hooks/ipa-snapshot").iterdir()) == []


def test_what_to_install_must_be_said(tmp_path: Path) -> None:
    done = _lay_out(tmp_path / "hooks")
    assert done.returncode != 0
    assert "DIB_IPA_SNAPSHOT_SOURCE is not set" in done.stderr
