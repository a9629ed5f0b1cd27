# SPDX-License-Identifier: Apache-2.0
"""The first process of an agent's PID namespace: hides the host's switches, runs and reaps."""

import os
import signal
import subprocess
import sys
import tempfile

from tests.lab import namespaces

# Through these, ironic-python-agent's power_off could reach the host.
_SWITCHES = ("/proc/sysrq-trigger", "/proc/sys/kernel/sysrq")
_INIT_SOCKETS = ("/run/systemd", "/run/dbus")


def hide_the_host() -> None:
    """Cover what would let a program in this cell power the host off."""
    for path in _SWITCHES:
        if os.path.exists(path):
            namespaces.cover(path)
    for path in _INIT_SOCKETS:
        if os.path.isdir(path):
            with tempfile.TemporaryDirectory(prefix="lab-empty-") as empty:
                namespaces.cover(path, empty)


def run(command: list[str]) -> int:
    """Run ``command`` and reap whatever is orphaned meanwhile, as an init does."""
    child = subprocess.Popen(command)
    # The kernel ignores a signal to a first process that has no handler for it.
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    hide_the_host()
    sys.exit(abs(run(sys.argv[1:])))
