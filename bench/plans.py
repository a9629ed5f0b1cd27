# SPDX-License-Identifier: Apache-2.0
"""What is measured: which methods, on which disks, with which limits."""

from dataclasses import dataclass

from bench import methods
from bench.machine_disk import MIB, Fill, copy_operating_system, write_noise
from bench.methods import METHODS, Method

_GIB = 1024 * MIB
_FILES = 3 * _GIB
_NOISE = 2 * _GIB
_NOISE_METHODS = (
    methods.STREAM, methods.STREAM_PLAIN, methods.PARTCLONE, methods.NBDKIT, methods.DAVFS,
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A series that is to be measured.

    :param amount: how many bytes of files ``fill`` is to write, and as many that are deleted.
    :param capped: disk and link are held to 500 MB/s and 1 Gbit/s.
    """

    name: str
    title: str
    disk_size: int
    fill: Fill
    amount: int
    capped: bool
    methods: tuple[Method, ...]


def plans(size_gib: int, *, quick: bool) -> list[Plan]:
    """Return all series; ``quick`` ones have few files."""
    size = 704 * MIB if quick else size_gib * _GIB
    files = 40 * MIB if quick else _FILES
    noise = 40 * MIB if quick else _NOISE
    some = _named(*_NOISE_METHODS)
    return [
        Plan("capped", "An operating system's files, disk of 500 MB/s, link of 1 Gbit/s",
             size, copy_operating_system, files, True, METHODS),
        Plan("uncapped", "An operating system's files, disk and link as they are",
             size, copy_operating_system, files, False, METHODS),
        Plan("noise", "Incompressible files, disk of 500 MB/s, link of 1 Gbit/s",
             size, write_noise, noise, True, some),
        *(Plan("growth-%d" % gb, "%d GB" % gb, gb * 10**9 // MIB * MIB,
               copy_operating_system, files, True, _named(methods.STREAM))
          for gb in (20, 200, 2000)),
    ]  # fmt: skip


def _named(*names: str) -> tuple[Method, ...]:
    return tuple(method for method in METHODS if method.name in names)
