# SPDX-License-Identifier: Apache-2.0
"""Swap space: its first page is what matters, and nothing of what was swapped out.

Known is the header that Linux writes (``union swap_header``) with pages of 4096 bytes. A hibernated
system has ``S1SUSPEND`` or another word in the signature's place (blkid: ``swsuspend``). Its memory
may know of blocks, of all file systems, that no transaction on the disk names yet.
"""

import contextlib
import os
import struct
from collections.abc import Iterable

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View, checked

_PAGE = 4096
_SIGNATURE = b"SWAPSPACE2"
# as libblkid 2.38 knows them, in the signature's place, and TuxOnIce's at the beginning
_SUSPENDED = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
_TUX_ON_ICE = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"
_PAGES = (4096, 8192, 16384, 32768, 65536)


def is_suspended(fd: int, pieces: Iterable[tuple[int, int]]) -> bool:
    """Tell whether a hibernated system begins in some pieces of a disk, each ``(start, length)``.

    What cannot be read is none: nor could it be resumed.
    """
    begin = b""
    with contextlib.suppress(OSError):
        for start, length in pieces:
            wanted = min(length, _PAGES[-1] - len(begin))
            content = os.pread(fd, wanted, start)
            begin += content
            if len(content) < length:
                break
    places = (begin[page - len(_SIGNATURE) : page] for page in _PAGES)
    return begin.startswith(_TUX_ON_ICE) or any(word.startswith(_SUSPENDED) for word in places)


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
