# SPDX-License-Identifier: Apache-2.0
"""What the image is to be: its format, and how it is compressed."""

from dataclasses import dataclass

FORMATS = ("qcow2", "raw")
COMPRESSIONS = ("auto", "zstd", "zlib", "none")
# what becomes of sectors that cannot be read: the snapshot fails, or they are zeros in the image
BAD_SECTORS = ("fail", "zero")


@dataclass(frozen=True)
class ImageOptions:
    """The wanted disk format, one of ``FORMATS``, and compression, one of ``COMPRESSIONS``."""

    disk_format: str = "qcow2"
    compression: str = "auto"
