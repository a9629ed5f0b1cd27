# SPDX-License-Identifier: Apache-2.0
"""The common part of the writers that let ``qemu-img convert`` write into a directory."""

import hashlib
import os
import re
from pathlib import Path

from ipa_snapshot import errors
from ipa_snapshot.devices.source import Source
from ipa_snapshot.images.qcow2 import choose_compression
from ipa_snapshot.writers.base import Written
from snapshot_core import process, qemu_img
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter

_CHUNK = 1024 * 1024
# QEMU 7.2; another wording would make it a WriteFailed with that wording.
_READ_ERROR = re.compile(r"error while reading at byte (\d+): ([^\n]+)")


def convert_into(
    target: Path, name: str, source: Source, options: ImageOptions, meter: Meter
) -> Written:
    """Write the image to the existing file ``target``, sync it, and read its digest back.

    :param name: what messages call it.
    :raises: ReadFailed, WriteFailed
    """
    compression = choose_compression(options)
    meter.phase("convert", source.size)
    try:
        qemu_img.convert(
            Path(source.path), target, options.disk_format, compression,
            lambda fraction: meter.done_to(int(source.size * fraction)),
        )  # fmt: skip
        size, sha512 = _sync_and_digest(target, meter)
    except (process.ProgramFailed, OSError) as exc:
        if unreadable := _READ_ERROR.search(str(exc)):
            raise errors.ReadFailed(
                "%s cannot be read at offset %s: %s; see the kernel's log, and replace the disk"
                % (source.path, *unreadable.groups())
            ) from exc
        raise errors.WriteFailed(
            "the image %s was not written to the end: %s" % (name, exc)
        ) from exc
    return Written(size, sha512, options.disk_format, compression, source.size, size)


def _sync_and_digest(target: Path, meter: Meter) -> tuple[int, str]:
    sha512 = hashlib.sha512()
    with target.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        meter.phase("digest", size)
        while chunk := file.read(_CHUNK):
            sha512.update(chunk)
            meter.done(len(chunk))
    return size, sha512.hexdigest()
