# SPDX-License-Identifier: Apache-2.0
"""Drive the program davfs2: its configuration, its mount options, and how far its upload is."""

import contextlib
import grp
import shutil
import threading
from pathlib import Path
from typing import Self

import psutil
from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.writers.base import Destination
from snapshot_core.progress import Meter

LOG = log.getLogger(__name__)

# The daemon runs as a user of its own, and a TMPDIR may be closed to that.
CACHE_PARENT = "/run"
_GROUP = "davfs2"
# buf_size: with less than 64, ls answers EINVAL on kernel 6.18.
# delay_upload, drop_weak_etags: qemu-img creates the image, closes it and opens it again, which
# davfs2 1.6.1 fails on Apache's weak etags if it uploads at once.
_CONFIG = """\
cache_dir %(cache)s
cache_size %(cache_mib)d
secrets %(secrets)s
ask_auth 0
use_locks 0
buf_size 1024
delay_upload 1
drop_weak_etags 1
"""


def check(destination: Destination) -> None:
    """Raise unless davfs2 is there, and fit for the ``destination``.

    :raises: StorageUnavailable, InvalidRequest
    """
    account = destination.credentials
    if account and account.is_digest and destination.location.scheme != "https":
        # davfs2 1.6.1 answers whatever it is asked for, and cannot be told not to.
        raise errors.InvalidRequest(
            "davfs2 would send the password as Basic to whoever asks it for that, and over http "
            "this can be anyone: use https, or the writer 'stream', which speaks Digest alone"
        )
    if shutil.which("mount.davfs") is None or not _has_group():
        raise errors.StorageUnavailable(
            "davfs2 is not installed here: install it in the ramdisk, or use the writer 'stream'"
        )


def _has_group() -> bool:
    with contextlib.suppress(KeyError):
        return bool(grp.getgrnam(_GROUP))
    return False


def cache_mount_options(size: int) -> list[str]:
    """Return the options of the tmpfs that is the cache.

    A tmpfs, because davfs2 ignores its own ``cache_size`` for files that are open.
    """
    return ["size=%d" % size, "mode=0770", "uid=0", "gid=%d" % grp.getgrnam(_GROUP).gr_gid,
            "nosuid", "nodev", "noexec"]  # fmt: skip


def mount_options(config: Path) -> list[str]:
    """Return the options of the davfs mount itself."""
    return ["conf=%s" % config, "uid=0", "gid=0", "nosuid", "nodev", "noexec"]


def write_config(private: Path, cache: Path, size: int, destination: Destination) -> Path:
    """Write davfs2's configuration and secrets into the ``private`` directory.

    :returns: the path of the configuration.
    :raises: NotEnoughMemory if there is no room for them.
    """
    try:
        return _write_config(private, cache, size, destination)
    except OSError as exc:
        raise errors.NotEnoughMemory("davfs2's configuration cannot be written: %s" % exc) from exc


def _write_config(private: Path, cache: Path, size: int, destination: Destination) -> Path:
    lines = _CONFIG % {
        "cache": cache, "cache_mib": size >> 20, "secrets": private / "secrets",
    }  # fmt: skip
    secrets = ""
    if destination.trust.cacert:
        # where the daemon may read it, which runs as another user
        lines += "trust_ca_cert %s\n" % shutil.copyfile(destination.trust.cacert, cache / "ca.pem")
    account = destination.credentials
    if account and account.token:
        lines += "add_header Authorization %s\n" % _quoted("Bearer " + account.token)
    elif account and account.username and account.password:
        words = (str(destination.location), account.username, account.password)
        secrets = " ".join(map(_quoted, words)) + "\n"
    for name, text in (("secrets", secrets), ("davfs2.conf", lines)):
        path = private / name
        path.touch(mode=0o600)  # davfs2 insists on it
        path.write_text(text)
    return private / "davfs2.conf"


def _quoted(word: str) -> str:
    # davfs2.conf(5): a backslash escapes a quote and itself within quotes
    return '"%s"' % word.replace("\\", "\\\\").replace('"', '\\"')


class UploadWatch:
    """Waits for davfs2's upload, and tells the meter how far it is.

    davfs2 uploads when it is unmounted, and its daemon ends when it is done; ``umount`` waits for
    that only if it finds davfs2's helper by libmount's private records. davfs2 says nothing
    meanwhile, but it reads the file from its cache as it sends it, and the kernel counts what a
    process reads. When the ``with`` ends by an error, or the meter's owner wants no more, the
    daemon is ended, which would go on uploading otherwise.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._daemon: psutil.Process | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, error: object, _traceback: object) -> None:
        try:
            if error is None and self._daemon is not None:
                self._daemon.wait()
        finally:
            # after a success it has ended by itself
            self._end_daemon()
            self._stopped.set()
            if self._thread is not None:
                self._thread.join()

    def attach(self, mount_point: Path) -> None:
        """Find the daemon that serves ``mount_point``."""
        self._daemon = _find_daemon(mount_point)

    def begin(self, file: Path) -> None:
        """Watch the upload of a ``file`` of the mount, from now until the end of the ``with``.

        :raises: WriteFailed if there is no such file any more.
        """
        try:
            total = file.stat().st_size
        except OSError as exc:
            # It may upload before it is unmounted, and drops what a server without space refused.
            raise errors.WriteFailed(
                "davfs2 gave %s up: %s; see the server's log, and whether it has space"
                % (file.name, exc.strerror)
            ) from exc
        self._meter.phase("upload", total)
        if self._daemon is not None:
            self._thread = threading.Thread(
                target=self._watch, args=(self._daemon, total), name="davfs2-upload", daemon=True
            )
            self._thread.start()

    def _watch(self, daemon: psutil.Process, total: int) -> None:
        try:
            begin = daemon.io_counters().read_chars
            while not self._stopped.wait(0.5):
                sent = min(total, daemon.io_counters().read_chars - begin)
                self._meter.done_to(sent, sent)
        except errors.SnapshotError as exc:
            # The caller sees it: the server does not hold the whole image now.
            LOG.warning("Ending davfs2's upload: %(reason)s", {"reason": exc})
            self._end_daemon()
        except (psutil.Error, OSError) as exc:
            LOG.debug("davfs2 is done, or cannot be watched: %(reason)s", {"reason": exc})

    def _end_daemon(self) -> None:
        if self._daemon is not None:
            with contextlib.suppress(psutil.Error):
                self._daemon.kill()
                self._daemon.wait(timeout=10)


def _find_daemon(mount_point: Path) -> psutil.Process | None:
    # Not process_iter(): since psutil 6.0 it may know a process by one that had its id before, and
    # then takes it for ended.
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.name() == "mount.davfs" and str(mount_point) in process.cmdline():
                return process
    return None
