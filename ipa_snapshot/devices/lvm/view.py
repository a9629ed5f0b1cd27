# SPDX-License-Identifier: Apache-2.0
"""Show a logical volume as programs can read it, without device-mapper.

One that lies in one piece is shown as a partition is. The pieces of others are put together by
qemu-nbd, for which they are the flat extents of a VMDK: it reads them as they are, without probing
for formats, wherever they begin on the disk. nbdkit 1.32 has no such plugin: ``split`` takes a
block device for empty.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ipa_snapshot.devices.file_systems.base import NotUnderstood, View
from ipa_snapshot.devices.file_systems.view import partition_view
from ipa_snapshot.devices.namespace import Namespace, await_ready, open_namespace, show_disk
from snapshot_core import process

_MOST_PIECES = 256
_STORE = process.MIB  # for the description
_MEMORY = 1024 * process.MIB  # more than the stacks of the 64 threads that QEMU starts at most
_HEAD = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="twoGbMaxExtentFlat"
"""


@contextlib.contextmanager
def volume_view(path: str, pieces: tuple[tuple[int, int], ...]) -> Iterator[View]:
    """Show the given ranges of a disk, one behind the other and read-only.

    :raises: NotUnderstood, process.ProgramFailed, OSError
    """
    if len(pieces) == 1:
        with partition_view(path, *pieces[0]) as view:
            yield view
        return
    description = describe(str(Path(path).resolve()), pieces)
    size = sum(length for _start, length in pieces)
    with (
        open_namespace(_STORE) as namespace,
        _joined(namespace, description) as socket,
        show_disk(namespace, size, "--unix", socket) as disk,
        # a block device again: xfs_logprint 6.1 does not open a file that cannot be written to
        partition_view(str(disk), 0, size) as view,
    ):
        yield view


def describe(path: str, pieces: tuple[tuple[int, int], ...]) -> str:
    """Return the description of a VMDK that consists of ranges of a disk.

    :raises: NotUnderstood
    """
    if len(pieces) > _MOST_PIECES:
        raise NotUnderstood("it lies in %d pieces" % len(pieces))
    # what block/vmdk.c of QEMU 7.2 takes: "%511[^\n\r\"]"
    if not path.startswith("/") or len(path.encode()) > 511 or not {*path}.isdisjoint('"\r\n'):
        raise NotUnderstood("it lies in pieces, and the disk's path has characters to be quoted")
    return _HEAD + "".join(
        'RW %d FLAT "%s" %d\n' % (length // 512, path, start // 512) for start, length in pieces
    )


@contextlib.contextmanager
def _joined(namespace: Namespace, description: str) -> Iterator[str]:
    """Serve a VMDK, and yield the socket as seen from inside."""
    (namespace.root / "volume.vmdk").write_text(description, encoding="utf-8")
    socket = namespace.directory + "/socket"
    with process.background(
        *namespace.inside, "qemu-nbd", "--read-only", "--format=vmdk", "--persistent",
        "--socket=" + socket, namespace.directory + "/volume.vmdk", memory=_MEMORY,
    ):  # fmt: skip
        await_ready((namespace.root / "socket").exists, "qemu-nbd")
        yield socket
