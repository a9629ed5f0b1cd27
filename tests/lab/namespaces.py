# SPDX-License-Identifier: Apache-2.0
"""Put the calling process into network and mount namespaces of its own."""

import ctypes
import os
import subprocess

# Python 3.11 has neither os.unshare (3.12) nor any mount call.
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MS_BIND = 0x1000
# Names the namespace, so that children know it as theirs; /proc/1/ns may be unreadable to root.
_MARK = "LAB_NETWORK_NAMESPACE"
# Which of the workers of pytest-xdist this is, or a child of: they are children of a process that
# has entered namespaces itself, and must not share those.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
# Such a worker has a thread that hands its messages on, and may stay behind.
_THREADS = 2 if _WORKER else 1


def isolated() -> bool:
    """Whether this process lives in the network namespace that it or a parent entered."""
    return os.environ.get(_MARK) == _mark()


def enter() -> None:
    """Move this process and its future children into private network and mount namespaces.

    Afterwards 127.0.0.1 is ours alone, no other interface exists, ``/run`` is empty, and mounts
    vanish with the process. A second call, also one from a child process, changes nothing.

    :raises: RuntimeError when other threads run already: they would stay behind.
    """
    if isolated():
        return
    if len(os.listdir("/proc/self/task")) > _THREADS:
        raise RuntimeError("namespaces.enter() must be called before any thread starts")
    _checked(_LIBC.unshare(_CLONE_NEWNET | _CLONE_NEWNS), "unshare the namespaces")
    # Mounts are shared with the host's namespace by default under systemd.
    _checked(
        _LIBC.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None),
        "make all mounts private",
    )
    # What other test runs on this host keep there is not ours to see.
    _checked(_LIBC.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755"), "have a /run of our own")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ[_MARK] = _mark()


def cover(path: str, with_path: str = "/dev/null") -> None:
    """Hide ``path`` behind ``with_path``, in this mount namespace; files or directories both."""
    _checked(
        _LIBC.mount(with_path.encode(), path.encode(), None, ctypes.c_ulong(_MS_BIND), None),
        f"cover {path} with {with_path}",
    )


def _mark() -> str:
    return "%s %s" % (os.readlink("/proc/self/ns/net"), _WORKER)


def _checked(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"could not {doing}: {os.strerror(number)}")
