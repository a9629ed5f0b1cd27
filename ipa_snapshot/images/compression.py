# SPDX-License-Identifier: Apache-2.0
"""How clusters are compressed; and which way is the quickest here."""

import dataclasses
import hashlib
import mmap
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zstandard
from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.source import Source

LOG = log.getLogger(__name__)

_ZLIB_WINDOW = -12  # qcow2: raw deflate with a window of 4 KiB
# so many samples of so many bytes, but of a small disk not more than one byte in so many
_SAMPLES, _SAMPLE, _ONE_IN = 32, 256 * 1024, 100
# What no measurement made here is exact to: the image is smaller, so zstd where it is close.
_GAIN = 0.9


def compressor(compression: str) -> Callable[[bytes | memoryview], bytes]:
    """Return a function, for any thread, that compresses a cluster as qcow2 wants it.

    :param compression: ``zstd``, ``zlib`` or ``none``.
    """
    if compression == "none":
        return bytes
    if compression == "zlib":
        return _deflate
    own = threading.local()

    def compress(content: bytes | memoryview) -> bytes:
        made = getattr(own, "compressor", None)
        if made is None:
            made = own.compressor = zstandard.ZstdCompressor(
                level=1, write_content_size=False, write_checksum=False
            )
        # What zstandard returns was allocated for the worst case and shrunk: kept like that, they
        # leave holes between them that nothing fits into (130 MiB were seen). A copy is exact.
        return bytes(memoryview(made.compress(content)))

    return compress


def _deflate(content: bytes | memoryview) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, _ZLIB_WINDOW)
    return packer.compress(content) + packer.flush()


@dataclass(frozen=True)
class Costs:
    """What a core needs for a byte of the disk, in seconds, and what zstd leaves of it.

    Where there is nothing but zeros, all of them are 0. ``bytes_read`` is what was read to see it.
    """

    compress_s: float
    digest_s: float
    ratio: float
    bytes_read: int = 0

    @classmethod
    def measure(cls, source: Source, extents: Extents) -> "Costs":
        """Measure with samples of the disk."""
        read, samples = 0, []
        for piece in _samples(source, extents):
            read += len(piece)
            if any(piece):
                samples.append(piece)
        if not samples:
            return cls(0, 0, 0, read)
        size, compress = sum(map(len, samples)), compressor("zstd")
        compress(samples[0])  # makes the compressor, which is not to be measured
        began = time.perf_counter()
        compressed = sum(len(compress(piece)) for piece in samples)
        middle = time.perf_counter()
        for piece in samples:
            hashlib.sha512(piece)
        end = time.perf_counter()
        return cls((middle - began) / size, (end - middle) / size, compressed / size, read)

    def on_any_link(self, cores: int) -> bool:
        """Tell whether zstd gets the disk away at least as soon, however fast the storage is."""
        if self.digest_s < _GAIN * self._zstd_s(cores) or self.ratio > 1:
            return False
        LOG.info("Compression: zstd: %(cores)s, on any link", {"cores": self._describe(cores)})
        return True

    def quickest(self, link: float, cores: int) -> str:
        """Return ``zstd`` or ``none``, whichever gets the disk away sooner.

        :param link: what the storage takes, in bytes a second.
        """
        with_zstd_s = max(self.ratio / link, self._zstd_s(cores))
        chosen = "none" if with_zstd_s * _GAIN > max(1 / link, self.digest_s) else "zstd"
        LOG.info(
            "Compression: %(chosen)s: %(cores)s, and the storage takes %(link)d MB/s",
            {"chosen": chosen, "cores": self._describe(cores), "link": link / 1e6},
        )
        return chosen

    def _zstd_s(self, cores: int) -> float:
        # The digest is made by one thread, compression by all; together they have the cores.
        digest_s = self.ratio * self.digest_s
        return max(digest_s, (self.compress_s + digest_s) / cores)

    def _describe(self, cores: int) -> str:
        if not self.compress_s:
            return "the disk is zeros"
        rate = cores / self.compress_s / 1e6
        return "%d cores compress %d MB/s of the disk to %d %%" % (cores, rate, self.ratio * 100)


def _samples(source: Source, extents: Extents) -> Iterator[bytes]:
    """Yield pieces from places that are evenly distributed over what is used."""
    view, strict = memoryview(mmap.mmap(-1, _SAMPLE)), dataclasses.replace(source, lost=None)
    step = max(extents.total // _SAMPLES, _ONE_IN * _SAMPLE)
    wanted = min(step, extents.total) // 2
    before = 0
    for start, length in extents:
        while wanted < before + length:
            offset = (start + wanted - before) // _SAMPLE * _SAMPLE
            wanted += step
            try:
                count = strict.read_into(view[: min(_SAMPLE, source.size - offset)], offset)
            except errors.ReadFailed:
                continue  # it is told when the disk is read, if the sector is in use at all
            yield bytes(view[:count])
        before += length
