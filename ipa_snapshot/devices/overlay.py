# SPDX-License-Identifier: Apache-2.0
"""Replay a dirty journal on a throw-away copy-on-write overlay, and learn what the replay needs.

After a power cut the file system's own free space is not what it will be once its journal is
replayed: a map made from it loses data, silently (seen with ext4 and xfs). The image still gets the
disk's bytes, dirty journal and all, and the first mount of a restored disk replays it there. So the
map must be right for that. It is the union of

1. what the file system uses *after* the replay, as its tool says on the overlay;
2. every range that was read or written *during* the replay, as nbdkit's log filter saw it; the
   journal itself is among them.

Why that is enough: let D be the disk and I the image, equal to D on this union. A replay depends on
nothing but what it reads. What it reads first is in (2), so in I as in D; so it does the same first
step on both; and so on with every step, until it has written the same. Afterwards a byte that is in
use (1) was either written by the replay, the same in both, or was not, and is in both what it was
on D. So the restored file system has the content that the disk would have had.

(1) alone was enough in what was tried, but need not be. Recovery of xfs frees what was deleted
while it was open, and the extents of intents that were not done; it reads their blocks, which are
free afterwards. (2) adds some ten KiB. For ext, e2fsck replays with ``-E journal_only`` and without
``-f``: with it, 1.47.0 checks and mends everything, and would free what the kernel still reads when
it cleans up orphans. Another kernel's replay may read a little else than ours did; what is in use
afterwards is in the map all the same.

The partition is attached read-only, so nothing can write to the disk. All else (the overlay's
store, the FUSE mount, the file system's mount) lives in a namespace that ends with us.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from oslo_log import log

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import NotUnderstood, View
from ipa_snapshot.devices.file_systems.view import loop_device
from ipa_snapshot.devices.namespace import Namespace, open_namespace, show_disk
from ipa_snapshot.memory import spare_memory
from snapshot_core import process

LOG = log.getLogger(__name__)

_BEYOND_LOG = 64 * process.MIB
_MEMORY = 1024 * process.MIB
_REPLAY_TIMEOUT_S = 600
_REQUEST = re.compile(r" (?:Read|Write|Zero|Trim) id=\d+ offset=0x([0-9a-f]+) count=0x([0-9a-f]+)")


@dataclass(frozen=True)
class Overlay:
    """A partition that can be written to, in a namespace of its own."""

    namespace: Namespace
    size: int

    @property
    def view(self) -> View:
        """The partition, as programs outside can read and write it."""
        return View(str(self.namespace.root / "disk"), self.size)

    def touched(self) -> Extents:
        """Return what was read or written until now.

        :raises: NotUnderstood when a request failed, as when the store is full.
        """
        ranges = []
        with open(self.namespace.root / "log", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if "return=-1" in line:
                    raise NotUnderstood("the overlay is full, or the disk cannot be read")
                if found := _REQUEST.search(line):
                    ranges.append((int(found[1], 16), int(found[2], 16)))
        return Extents(ranges).clipped(0, self.size)


class _Stores:
    """The memory that the overlays may fill which are open now: several threads map partitions."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reserved = 0

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[int]:
        """Keep ``size`` bytes for a store; wait for them while others have theirs.

        :raises: NotUnderstood when there is too little memory for this one alone.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._fits(size) or not self._reserved)
            if not self._fits(size):
                raise NotUnderstood("there is no memory for an overlay of %d MiB" % (size >> 20))
            self._reserved += size
        try:
            yield size
        finally:
            with self._changed:
                self._reserved -= size
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        # What the others have filled already is counted twice, which is on the safe side.
        return self._reserved + size <= spare_memory()


_STORES = _Stores()


@contextlib.contextmanager
def open_overlay(view: View, log_size: int) -> Iterator[Overlay]:
    """Put an overlay over a partition; its store holds ``log_size`` bytes and 64 MiB more.

    :raises: NotUnderstood where there is no memory for it, process.ProgramFailed or OSError where
        none can be made.
    """
    with (
        _STORES.reserved(log_size + _BEYOND_LOG) as store,
        open_namespace(store) as namespace,
        show_disk(namespace, view.size, *_server(namespace, view)) as disk,
    ):
        (namespace.root / "mount").mkdir()
        _read_nothing_ahead(disk)
        yield Overlay(namespace, view.size)


def replay(fs: str, overlay: Overlay) -> None:
    """Replay the journal of a file system on its overlay.

    Whether it is clean afterwards its own module sees.

    :raises: NotUnderstood, process.ProgramFailed
    """
    replayed = _REPLAYS.get(fs)
    if replayed is None:
        raise NotUnderstood("the journal of %s is dirty and cannot be replayed" % fs)
    replayed(overlay)


def _replay_ext(overlay: Overlay) -> None:
    # Exit status 1 is "errors were corrected"; what is left of them shows in its state.
    with contextlib.suppress(process.ProgramFailed):
        process.run(
            "e2fsck", "-p", "-E", "journal_only", overlay.view.path, memory=_MEMORY,
            timeout_s=_REPLAY_TIMEOUT_S,
        )  # fmt: skip


def _replay_xfs(overlay: Overlay) -> None:
    inside, mountpoint = overlay.namespace.inside, overlay.namespace.directory + "/mount"
    with loop_device(overlay.view.path, read_only=False) as device:
        process.run(
            *inside, "mount", "-t", "xfs", "-o", "nouuid,nodev,nosuid,noexec", device,
            mountpoint, timeout_s=_REPLAY_TIMEOUT_S,
        )  # fmt: skip
        process.run(*inside, "umount", mountpoint, timeout_s=_REPLAY_TIMEOUT_S)


_REPLAYS: Mapping[str, Callable[[Overlay], None]] = MappingProxyType(
    {"ext3": _replay_ext, "ext4": _replay_ext, "xfs": _replay_xfs}
)


def _server(namespace: Namespace, view: View) -> list[str]:
    # nbdkit's cow filter keeps two bits a block in memory: 64 MiB of them at most.
    block = 4096
    while view.size // block // 4 > 64 * process.MIB:
        block *= 2
    return [
        # --single: over a socket, libnbd 1.14 leaves its directory in /tmp when it is killed.
        "--command", "nbdkit", "--single", "--threads=4", "--exit-with-parent",
        "--filter=log", "--filter=cow", "file", view.path, "cow-block-size=%d" % block,
        "logfile=%s/log" % namespace.directory,
    ]  # fmt: skip


def _read_nothing_ahead(disk: Path) -> None:
    # What is read is taken for needed: without this the map has more in it than it must have.
    device = disk.stat().st_dev
    ahead = Path("/sys/class/bdi/%d:%d/read_ahead_kb" % (os.major(device), os.minor(device)))
    try:
        ahead.write_text("0", encoding="ascii")
    except OSError as exc:
        LOG.info("%(path)s is not set: %(reason)s", {"path": ahead, "reason": exc})
