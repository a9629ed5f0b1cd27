# SPDX-License-Identifier: Apache-2.0
"""Make an image with ``qemu-img convert``, which skips what is zero."""

import re
from collections.abc import Callable
from pathlib import Path

from snapshot_core import process

COMPRESSIONS = ("zstd", "zlib", "none")
_MEMORY = 2 * 1024**3
_PERCENT = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")


def convert(
    source: Path,
    target: Path,
    disk_format: str,
    compression: str,
    on_fraction: Callable[[float], None],
) -> None:
    """Write the raw disk ``source`` as an image to the file ``target``.

    :param disk_format: ``qcow2`` or ``raw``.
    :param compression: one of ``COMPRESSIONS``; only ``none`` for ``raw``.
    :param on_fraction: is told from time to time which part of the disk is done, from 0 to 1.
    :raises: ProgramFailed; reading and writing errors are told apart only in its words.
    """

    def report(output: str) -> None:
        for percent in _PERCENT.findall(output):
            on_fraction(float(percent) / 100)

    # -f raw: the disk's first bytes are a tenant's, and must not choose the format.
    argv = ["qemu-img", "convert", "-p", "-f", "raw", "-O", disk_format]
    if compression != "none":
        # -W: the order of writing is free, so that clusters are compressed on all cores
        argv += ["-c", "-W", "-o", "compression_type=%s" % compression]
    process.follow(*argv, str(source), str(target), on_output=report, memory=_MEMORY)
