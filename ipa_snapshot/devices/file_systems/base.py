# SPDX-License-Identifier: Apache-2.0
"""What a file system's module gives: which bytes of a partition it uses, and how that is known.

Only what is understood is skipped. A module raises :class:`NotUnderstood` for everything that it
was not written for, above all for features that it does not know; its partition is copied whole.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ipa_snapshot.devices.extents import Extents


class NotUnderstood(Exception):
    """The file system's map cannot be relied on; the message is the reason, for the result."""


@dataclass(frozen=True)
class View:
    """A partition as a program can read it: a read-only loop device, or a file of an overlay.

    ``size`` in bytes; ``path`` begins with the partition's first byte.
    """

    path: str
    size: int


@dataclass(frozen=True)
class FileSystemMap:
    """What a file system uses: ``used`` within its own ``size`` (bytes, from its first byte).

    :param known_by: how that is known.
    :param journal: the state of its journal, None where it has none.
    """

    used: Extents
    size: int
    known_by: str
    journal: str | None = None


class DirtyJournal(Exception):
    """The journal holds what is not in its place yet: it has to be replayed on an overlay.

    :param log_size: the size of the journal in bytes.
    """

    def __init__(self, log_size: int) -> None:
        super().__init__("its journal is dirty")
        self.log_size = log_size


Mapper = Callable[[View], FileSystemMap]


def from_free(
    free: Iterable[tuple[int, int]], view: View, size: int, known_by: str, journal: str | None
) -> FileSystemMap:
    """Return the map of a file system of ``size`` bytes that told what is ``free`` in it.

    :raises: NotUnderstood when that is not plausible.
    """
    if not 0 < size <= view.size:
        raise NotUnderstood(
            "the file system has %d bytes, but its partition %d" % (size, view.size)
        )
    try:
        ranges = Extents.within(free)
    except ValueError as exc:
        raise NotUnderstood("free blocks that cannot be: %s" % exc) from exc
    if ranges.end > size:
        raise NotUnderstood("free blocks behind the end of the file system")
    return checked(FileSystemMap(ranges.complement(size), size, known_by, journal), view)


def checked(found: FileSystemMap, view: View) -> FileSystemMap:
    """Return ``found`` if it is plausible.

    :raises: NotUnderstood
    """
    if not found.used:
        # partclone 0.3.23 once gave an empty map on its first run, with exit status 0
        raise NotUnderstood("an empty map")
    if found.size > view.size or found.used.end > found.size:
        raise NotUnderstood("a map beyond the end of the partition")
    return found


def unknown(names: Iterable[str], known: frozenset[str]) -> None:
    """Refuse features that are not ``known``.

    :raises: NotUnderstood
    """
    strange = sorted(set(names) - known)
    if strange:
        raise NotUnderstood("unknown features %s" % ", ".join(strange))


def unknown_bits(what: str, bits: int, known: int) -> None:
    """Refuse feature flags that are not ``known``.

    :raises: NotUnderstood
    """
    if bits & ~known:
        raise NotUnderstood("unknown features (%s 0x%x)" % (what, bits & ~known))
