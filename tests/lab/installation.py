# SPDX-License-Identifier: Apache-2.0
"""A service that is installed in a virtual environment of its own, as tools/setup.sh does it."""

import os
import pathlib
import subprocess
import tempfile

_CACHE = pathlib.Path(__file__).parents[2] / ".cache"


class Installation:
    """The programs of a service, which see nothing of our own ones.

    :param service: the name of its distribution.
    """

    def __init__(self, service: str, venv: str | os.PathLike[str]) -> None:
        self._service = service
        self.venv = pathlib.Path(venv)

    def program(self, name: str) -> str:
        """Return the path of a program.

        :raises: RuntimeError
        """
        path = self.venv / "bin" / name
        if not path.exists():
            raise RuntimeError(f"no {path}: tools/setup.sh installs {self._service}")
        return str(path)

    def run(self, program: str, *arguments: str) -> str:
        """Run a program and return what it prints.

        :raises: RuntimeError
        """
        command = [self.program(program), *arguments]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def version(self) -> str:
        """Return the version that is installed."""
        ask = f"import importlib.metadata as m; print(m.version({self._service!r}))"
        return self.run("python", "-c", ask).strip()

    def migrated_database(self, program: str, command: str) -> pathlib.Path:
        """Return an empty SQLite database with all tables, to copy; making one takes many seconds.

        :param program: what makes them, with its ``command``.
        """
        cached = _CACHE / f"{self.venv.name.strip('.')}-{self.version()}.sqlite"
        if cached.exists():
            return cached
        _CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{self._service}-", dir=_CACHE) as where:
            made = pathlib.Path(where, "db")
            config = pathlib.Path(where, "service.conf")
            config.write_text(f"[database]\nconnection = sqlite:///{made}\n")
            self.run(program, "--config-file", str(config), command)
            # Renamed when complete, so that nobody copies half of it.
            made.rename(cached)
        return cached
