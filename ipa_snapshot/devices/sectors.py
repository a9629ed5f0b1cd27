# SPDX-License-Identifier: Apache-2.0
"""Read a disk down to its single sectors where it fails, and note those that are lost."""

import bisect
import errno
import os
import threading
from array import array

from ipa_snapshot.devices.extents import Extents

# As linux/block/blk-core.c tells them for direct reads: ENODATA is a "critical medium error". Not
# here: a device that is gone or a path that is lost, of which nothing may be taken for zeros.
_MEDIUM_ERRORS = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO})
# A controller that died answers EIO to everything.
_MOST = 64 * 1024 * 1024


class TooManyLost(OSError):
    """So much cannot be read that this is no disk with a few bad sectors any more."""


class LostSectors:
    """The sectors that could not be read and are zeros in the image; threads may share it.

    One that was lost stays lost: an image's bytes may be read more than once, and what is told of
    them must be true whichever read it was that went into the image.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts, self._lengths = array("Q"), array("Q")  # in order
        self._total = 0

    def add(self, start: int, length: int) -> None:
        """Note a sector, by its range of bytes.

        :raises: TooManyLost
        """
        with self._lock:
            place = bisect.bisect_left(self._starts, start)
            if self._starts[place : place + 1] == array("Q", [start]):
                return
            self._starts.insert(place, start)
            self._lengths.insert(place, length)
            self._total += length
            if self._total > _MOST:
                raise TooManyLost(errno.EIO, "more than %d MiB cannot be read" % (_MOST >> 20))

    def blank(self, view: memoryview, offset: int) -> None:
        """Make zeros of what was lost before, in what was read now."""
        with self._lock:
            # the one before may end in it
            first = max(0, bisect.bisect_left(self._starts, offset) - 1)
            last = bisect.bisect_left(self._starts, offset + len(view))
            for place in range(first, last):
                start = self._starts[place] - offset
                begin, end = max(0, start), min(start + self._lengths[place], len(view))
                if begin < end:
                    view[begin:end] = bytes(end - begin)

    def extents(self) -> Extents:
        """Return what was lost."""
        with self._lock:
            return Extents(zip(self._starts, self._lengths, strict=True))


def read_into(
    view: memoryview, offset: int, descriptors: tuple[int, ...], sector: int,
    lost: LostSectors | None,
) -> int:  # fmt: skip
    """Read at ``offset`` into ``view``; return how many bytes came, 0 at the end of the disk.

    A read that fails as a whole comes nearer by halves, so that what is told (or, with ``lost``,
    noted and taken for zeros) is the ``sector`` that cannot be read, and nothing around it.

    :param descriptors: the open disk; a further one serves where the one before answers EINVAL.
    :raises: OSError
    """
    try:
        count = _read_once(view, offset, descriptors)
    except OSError as exc:
        if exc.errno not in _MEDIUM_ERRORS or (len(view) <= sector and lost is None):
            raise
        if len(view) <= sector and lost is not None:
            lost.add(offset, len(view))
            view[:] = bytes(len(view))
            return len(view)
    else:
        if lost is not None:
            lost.blank(view[:count], offset)
        return count
    half = max(sector, len(view) // 2 // sector * sector)
    count = read_into(view[:half], offset, descriptors, sector, lost)
    # Without `lost` the next call, from where this one ends, tells the offset that fails.
    if count == half and lost is not None:
        count += read_into(view[half:], offset + half, descriptors, sector, lost)
    return count


def _read_once(view: memoryview, offset: int, descriptors: tuple[int, ...]) -> int:
    # EINVAL from O_DIRECT: what is asked for is not aligned, or the file system cannot do it
    for descriptor in descriptors[:-1]:
        try:
            return os.preadv(descriptor, [view], offset)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
    return os.preadv(descriptors[-1], [view], offset)
