# SPDX-License-Identifier: Apache-2.0
"""The errors that either end of a snapshot can meet.

A class that derives from :class:`SnapshotError` itself names the machine-readable word that travels
on the wire, its subclasses have the same; its message names the object, what was expected and what
was found, and what to do.
"""


class SnapshotError(Exception):
    """A snapshot failed for a reason that is understood; the base of all our errors."""

    @property
    def word(self) -> str:
        """The machine-readable word of the error."""
        kinds = type(self).__mro__
        return kinds[max(0, kinds.index(SnapshotError) - 1)].__name__


class InvalidRequest(SnapshotError):
    """What was asked for cannot be meant: nothing was started."""


class StorageUnavailable(SnapshotError):
    """The intermediate storage cannot be reached, or refuses what is needed."""


class StorageMismatch(SnapshotError):
    """The storage holds something else than what was sent to it."""

    def __init__(self, where: str, expected: object, found: object) -> None:
        """Say that ``where`` holds ``found`` and not ``expected`` (sizes in bytes, or digests)."""
        super().__init__(
            "%s holds %s, expected %s: the image is damaged or incomplete; check the storage's "
            "log and free space, then take the snapshot again"
            % (where, "nothing" if found is None else found, expected)
        )


class WriteFailed(SnapshotError):
    """Bytes could not be written to where they were sent."""
