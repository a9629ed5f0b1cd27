# SPDX-License-Identifier: Apache-2.0
"""exFAT: what partclone 0.3.23 maps, if the volume was closed as it should be.

partclone.exfat maps a dirty volume nevertheless (it only warns), so the flags are read here.
"""

import os
import struct

from ipa_snapshot.devices.file_systems.base import FileSystemMap, NotUnderstood, View
from ipa_snapshot.devices.file_systems.partclone import map_by_partclone

_SECOND_FAT, _DIRTY, _MEDIA_FAILURE = 0x1, 0x2, 0x4


def map_exfat(view: View) -> FileSystemMap:
    """Return what an exFAT uses.

    :raises: NotUnderstood, process.ProgramFailed, OSError
    """
    fd = os.open(view.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        boot = os.pread(fd, 512, 0)
    finally:
        os.close(fd)
    if len(boot) != 512 or boot[3:11] != b"EXFAT   ":
        raise NotUnderstood("no boot sector")
    version, flags = struct.unpack_from("<HH", boot, 104)
    if version >> 8 != 1 or boot[110] != 1:
        raise NotUnderstood("exFAT of version 0x%x with %d tables" % (version, boot[110]))
    if flags & (_SECOND_FAT | _DIRTY | _MEDIA_FAILURE):
        raise NotUnderstood("it was not unmounted, or had errors (flags 0x%x)" % flags)
    return map_by_partclone("exfat", view)
