# SPDX-License-Identifier: Apache-2.0
"""Swap space: its first page is what matters, and nothing of what was swapped out.

Known is the header that Linux writes (``union swap_header``) with pages of 4096 bytes. A hibernated
system has ``S1SUSPEND`` in the signature's place (blkid: ``swsuspend``) and is copied whole.
"""

import os
import struct

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, checked

_PAGE = 4096
_SIGNATURE = b"SWAPSPACE2"


def map_swap(view: View) -> FileSystemMap:
    """Return the header of a swap space.

    :raises: NotUnderstood, OSError
    """
    fd = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        page = os.pread(fd, _PAGE, 0)
    finally:
        os.close(fd)
    if page[-len(_SIGNATURE) :] != _SIGNATURE:
        raise NotUnderstood("no SWAPSPACE2 where its first 4096 bytes end")
    version, last_page = struct.unpack_from("<II", page, 1024)
    size = (last_page + 1) * _PAGE
    if version != 1 or not 0 < size <= view.size:
        raise NotUnderstood("a header of version %d with %d pages" % (version, last_page + 1))
    return checked(FileSystemMap(Extents([(0, _PAGE)]), size, "swap: its header"), view)
