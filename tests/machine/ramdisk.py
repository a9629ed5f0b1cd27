# SPDX-License-Identifier: Apache-2.0
"""Build the agent's ramdisk with our element, from package registries alone: ``make ramdisk``.

Nothing comes from git: the agent is its source distribution, and what pip installs in the chroot
is downloaded here, where the machine's own configuration of pip applies. Distribution packages
come from where this machine's apt gets its own.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

_HERE = pathlib.Path(__file__).parent
_REPOSITORY = _HERE.parent.parent
_CACHE = _REPOSITORY / ".cache/ramdisk"
_VENV = _CACHE / "venv"
_BUILDER = _HERE / "ramdisk-requirements.txt"
_AGENT = _HERE / "agent-requirements.txt"
_ELEMENTS = (_REPOSITORY / "dib-elements", _HERE / "elements")
# Of these the wheel is made; it comes with what the conductor's side needs, too.
_PACKAGES = ("snapshot_core", "ipa_snapshot", "conductor_client")
_PROJECT = ("setup.cfg", "setup.py", "pyproject.toml", "requirements.txt")
_SHOWN = ("README.md", "LICENSE")


@dataclass(frozen=True)
class Ramdisk:
    """The two files that a machine boots."""

    kernel: pathlib.Path
    initramfs: pathlib.Path

    def complete(self) -> bool:
        """Tell whether both are there."""
        return self.kernel.exists() and self.initramfs.exists()


def cached(*, plain: bool = False) -> Ramdisk | None:
    """Return the ramdisk that belongs to this tree, if it was built."""
    ramdisk = _place(plain)
    return ramdisk if ramdisk.complete() else None


def _place(plain: bool) -> Ramdisk:
    directory = _CACHE / ("plain" if plain else "ipa") / _key(plain)
    return Ramdisk(directory / "ipa.kernel", directory / "ipa.initramfs")


def build(*, plain: bool = False) -> Ramdisk:
    """Return the ramdisk that belongs to this tree, built if the cache has none.

    :param plain: without our element, to see what that adds.
    :raises: RuntimeError with the last lines of the log when the build fails.
    """
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ramdisk = _place(plain)
        if not ramdisk.complete():
            kept = ramdisk.kernel.parent
            shutil.rmtree(kept.parent, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="build-", dir=_CACHE) as scratch:
                made = _build(pathlib.Path(scratch), plain)
                kept.mkdir(parents=True)
                made.kernel.rename(ramdisk.kernel)
                made.initramfs.rename(ramdisk.initramfs)
        return ramdisk


def _key(plain: bool) -> str:
    """Name the ramdisk by what it is made of; only Debian's own updates are not seen."""
    digest = hashlib.sha256(repr((platform.python_version(), plain)).encode())
    inputs = [_BUILDER, _AGENT, pathlib.Path(__file__), *map(_REPOSITORY.joinpath, _PROJECT)]
    for tree in (*_ELEMENTS, *map(_REPOSITORY.joinpath, _PACKAGES)):
        inputs += sorted(path for path in tree.rglob("*") if path.is_file())
    for path in inputs:
        if path.suffix != ".pyc":
            digest.update(b"%s\0%s\0" % (str(path.relative_to(_REPOSITORY)).encode(), _of(path)))
    return digest.hexdigest()[:16]


def _of(path: pathlib.Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _build(scratch: pathlib.Path, plain: bool) -> Ramdisk:
    began = time.monotonic()
    _make_venv()
    _say("downloading the agent, and what it and the project need")
    wheelhouse, agent, wheel = _download(scratch)
    mirror, security = mirrors()
    _say("building the ramdisk, in some minutes; its log: %s" % _log())
    settings = {
        "ELEMENTS_PATH": ":".join(map(str, _ELEMENTS)),
        "TMPDIR": str(scratch),
        "DIB_IMAGE_CACHE": str(_CACHE / "packages"),
        "DIB_DEBOOTSTRAP_CACHE": "1",
        "DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE": "1",
        # without firmware, which is not in main
        "DIB_DEBIAN_COMPONENTS": "main",
        "DIB_DISTRIBUTION_MIRROR": mirror,
        "DIB_DEBIAN_SECURITY_MIRROR": security,
        "DIB_INSTALLTYPE_glean": "package",
        **_tarball("ironic_python_agent", agent),
        **_tarball("requirements", _constraints(scratch, wheelhouse)),
        "DIB_IPA_COMPRESS_CMD": "zstd -T0 -6",
        "DIB_IPA_SNAPSHOT_SOURCE": str(wheel),
        "LAB_WHEELHOUSE": str(wheelhouse),
    }
    element = [] if plain else ["--element", "ipa-snapshot"]
    _run_builder(
        ["--output", str(scratch / "ipa"), "--release", codename(), "--element", "lab-ramdisk",
         *element, "debian-minimal"],
        settings,
    )  # fmt: skip
    _say("built in %d s" % (time.monotonic() - began))
    return Ramdisk(scratch / "ipa.kernel", scratch / "ipa.initramfs")


def _make_venv() -> None:
    stamp = _VENV / "requirements.txt"
    if stamp.exists() and _of(stamp) == _of(_BUILDER):
        return
    _say("making the virtual environment %s" % _VENV)
    _run(sys.executable, "-m", "venv", "--clear", str(_VENV))
    _pip("install", "--requirement", str(_BUILDER))
    shutil.copyfile(_BUILDER, stamp)


def _download(scratch: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Return the wheels that are needed, the agent's source distribution, and our own wheel."""
    wheelhouse, sources = scratch / "wheelhouse", scratch / "sources"
    requirements = _REPOSITORY / "requirements.txt"
    _pip("wheel", "-w", str(wheelhouse), "-r", str(_AGENT), "-r", str(requirements))
    [agent] = wheelhouse.glob("ironic_python_agent-*.whl")
    version = agent.name.split("-")[1]
    agent.unlink()
    _pip(
        "download", "-d", str(sources), "--no-deps", "--no-binary", ":all:",
        "ironic-python-agent==" + version,
    )  # fmt: skip
    [sdist] = sources.iterdir()
    return wheelhouse, sdist, _wheel(scratch)


def _wheel(scratch: pathlib.Path) -> pathlib.Path:
    # of a copy, because building leaves directories in a tree
    tree, where = scratch / "tree", scratch / "wheel"
    for name in _PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_REPOSITORY / name, tree / name, ignore=ignored)
    for name in (*_PROJECT, *_SHOWN):
        shutil.copyfile(_REPOSITORY / name, tree / name)
    version = importlib.metadata.version("ipa-snapshot")
    _pip("wheel", "--no-deps", "-w", str(where), str(tree), env={"PBR_VERSION": version})
    [wheel] = where.iterdir()
    return wheel


def _constraints(scratch: pathlib.Path, wheelhouse: pathlib.Path) -> pathlib.Path:
    """Return what the agent's element takes for the repository of OpenStack's requirements."""
    pins = [path.name.split("-")[:2] for path in sorted(wheelhouse.glob("*.whl"))]
    text = scratch / "upper-constraints.txt"
    text.write_text("".join("%s==%s\n" % (name, version) for name, version in pins))
    archive = scratch / "requirements.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(text, arcname="requirements/upper-constraints.txt")
    return archive


def _tarball(name: str, path: pathlib.Path) -> dict[str, str]:
    return {
        "DIB_REPOTYPE_" + name: "tar",
        "DIB_REPOREF_" + name: "*",
        "DIB_REPOLOCATION_" + name: path.as_uri(),
    }


def codename() -> str:
    """Return the release of this machine: its Python is that of the wheels."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def mirrors() -> tuple[str, str]:
    """Return where this machine's apt finds its release, and the security updates of that."""
    form = "$(CODENAME) $(COMPONENT) $(REPO_URI)"
    answer = _run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    found = dict(line.rsplit(maxsplit=1) for line in answer.splitlines())
    try:
        return found[codename() + " main"], found[codename() + "-security main"]
    except KeyError as exc:
        raise RuntimeError("apt knows no %s: run apt-get update" % exc) from exc


def _run_builder(arguments: list[str], settings: Mapping[str, str]) -> None:
    # Variables that tell pip or curl of files must not reach the chroot, where these are not.
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    path = "%s/bin:/usr/sbin:/usr/bin:/sbin:/bin" % _VENV
    env = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb", "PATH": path}
    # Whatever the build mounts and starts ends with it.
    cage = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    command = ["nice", "-n", "19", *cage, "--mount-proc", "--", "ironic-python-agent-builder"]
    with _log().open("w") as log:
        done = subprocess.run(
            [*command, *arguments], env={**env, **kept, **settings}, check=False, cwd="/",
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=3600,
        )  # fmt: skip
    if done.returncode != 0:
        tail = _log().read_text(errors="replace").splitlines()[-40:]
        raise RuntimeError("the ramdisk was not built:\n" + "\n".join(tail))


def _pip(*arguments: str, env: Mapping[str, str] | None = None) -> None:
    _run(str(_VENV / "bin/python"), "-m", "pip", "--quiet", *arguments, env=env)


def _run(*command: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError("%s failed: %s%s" % (" ".join(command), done.stdout, done.stderr))
    return done.stdout


def _log() -> pathlib.Path:
    return _CACHE / "build.log"


def _say(text: str) -> None:
    print("ramdisk: " + text, file=sys.stderr, flush=True)


def main() -> None:
    """Build it, and print its files with their sizes in MB."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.ramdisk", description=__doc__)
    parser.add_argument("--plain", action="store_true", help="without the element, to compare")
    ramdisk = build(plain=parser.parse_args().plain)
    for path in (ramdisk.kernel, ramdisk.initramfs):
        print("%6.1f MB  %s" % (path.stat().st_size / 1e6, path))


if __name__ == "__main__":
    main()
