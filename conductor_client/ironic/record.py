# SPDX-License-Identifier: Apache-2.0
"""What a node remembers of its snapshot: all that another conductor needs to go on, or clean up.

It lies in the node's ``driver_internal_info`` and holds no secret: Ironic's API shows it.
"""

import enum
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from conductor_client import errors
from conductor_client.agent import Captured
from conductor_client.delivery import CaptureOptions
from snapshot_core.image_options import BAD_SECTORS, COMPRESSIONS, FORMATS
from snapshot_core.location import check_image_name

KEY = "ipa_snapshot"
# What an Ironic with the states of snapshots keeps beside it: the image of a snapshot that waits
# for its ramdisk; and of a node whose instance is not back from one, 'tried' once that failed, else
# True.
IMAGE_REF_KEY = "snapshot_image_ref"
RAMDISK_KEY = "snapshot_ramdisk"
# A machine whose power was to be cut is given this long to see that it is to stop, in seconds; its
# agent looks every five.
STOP_PATIENCE_S = 20
_GENERATION = re.compile(r"[0-9a-f]{32}")
_CHOICES = (("image_format", FORMATS), ("compression", COMPRESSIONS), ("bad_sectors", BAD_SECTORS))


class Phase(enum.StrEnum):
    """How far a snapshot is."""

    REQUESTED = "requested"
    STARTING = "starting"  # the command may have reached the agent
    CAPTURING = "capturing"
    UPLOADING = "uploading"
    DONE = "done"
    FAILED = "failed"  # in the agent, which has ended
    KEPT = "kept"  # the upload failed, and the image waits in the storage for another one


class UnreadableRecord(errors.InvalidRequest):
    """What a node remembers was not written by this version."""


@dataclass(frozen=True)
class Record:
    """One snapshot of a node.

    :ivar generation: tells it from all others, and is the unguessable name of its image.
    :ivar since: when the phase began, in seconds since the epoch.
    :ivar command_id: that of the agent's command.
    :ivar captured: what is in the storage, once it is.
    :ivar kept_since: when an upload failed after which the image is kept, in seconds since the
        epoch.
    :ivar disk_of: whose disk it is, see :func:`.ledger.tenancy`.
    """

    generation: str
    image_ref: str
    phase: Phase
    since: int
    options: CaptureOptions
    command_id: str | None = None
    captured: Captured | None = None
    kept_since: int | None = None
    disk_of: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if not _GENERATION.fullmatch(self.generation):
            raise errors.InvalidRequest("%r is no snapshot's generation" % self.generation)

    @classmethod
    def new(
        cls, image_ref: str, options: CaptureOptions, now: int, disk_of: tuple[str | None, ...] = ()
    ) -> "Record":
        """Return the record of a snapshot that nobody has begun to take."""
        return cls(uuid.uuid4().hex, image_ref, Phase.REQUESTED, now, options, disk_of=disk_of)

    @property
    def image_name(self) -> str:
        """The name of the image in the storage, in the node's collection."""
        # What was asked for is anything until it is checked; this is used before, too.
        suffix = "raw" if self.options.image_format == "raw" else "qcow2"
        return "%s.%s" % (self.generation, suffix)

    def check_options(self) -> None:
        """Make sure that the options, which are a step's arguments, are some that there are.

        :raises: InvalidRequest
        """
        for name, choices in _CHOICES:
            if (given := getattr(self.options, name)) not in choices:
                raise errors.InvalidRequest(
                    "the argument %s is %r, expected one of %s" % (name, given, ", ".join(choices))
                )
        for name in ("writer", "expected_serial", "expected_wwn"):
            if not isinstance(given := getattr(self.options, name), str | None):
                raise errors.InvalidRequest(
                    "the argument %s is %r, expected a text" % (name, given)
                )

    def turned(self, phase: Phase, now: int, **changes: Any) -> "Record":
        """Return the record in another phase."""
        return replace(self, phase=phase, since=now, **changes)

    def kept(self, now: int) -> "Record":
        """Return the record of an image that stays in the storage, counted from the first time."""
        return self.turned(Phase.KEPT, now, kept_since=self.kept_since or now)

    def kept_for_s(self, now: int, retention_s: int) -> int:
        """Return how much longer the image is to stay in the storage, in seconds; 0: it is not."""
        if self.kept_since is None or self.phase not in (Phase.KEPT, Phase.UPLOADING):
            return 0
        return max(0, self.kept_since + retention_s - now)

    def retired(self) -> "Leftover":
        """Return what there may be left of it in the storage."""
        at_work = self.phase in (Phase.STARTING, Phase.CAPTURING)
        return Leftover(self.image_name, None if at_work else 0)


@dataclass(frozen=True)
class Leftover:
    """An image, or parts of one, that is to go from the storage.

    :ivar agent_until: for how long an agent may still write it, in seconds since the epoch; None
        as long as an agent that may be at work was not asked to stop.
    """

    image_name: str
    agent_until: int | None

    def __post_init__(self) -> None:
        check_image_name(self.image_name)


@dataclass(frozen=True)
class Book:
    """All that a node remembers: its last snapshot, and what is left of earlier ones."""

    record: Record | None = None
    leftovers: tuple[Leftover, ...] = ()

    @classmethod
    def parse(cls, raw: Any) -> "Book":
        """Read what :meth:`to_wire` returned; nothing at all is an empty book.

        :raises: UnreadableRecord
        """
        if not raw:
            return cls()
        try:
            record = raw["record"]
            return cls(
                _parse_record(record) if record else None,
                tuple(Leftover(**leftover) for leftover in raw["leftovers"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, errors.SnapshotError) as exc:
            raise UnreadableRecord(
                "what the node remembers of a snapshot is of another version of ipa-snapshot: take "
                "the snapshot again"
            ) from exc

    def to_wire(self) -> dict[str, Any] | None:
        """Return it as plain values, or None if it is empty."""
        if self == Book():
            return None
        return {
            "record": _record_to_wire(self.record) if self.record else None,
            "leftovers": [asdict(leftover) for leftover in self.leftovers],
        }

    def retired(self) -> "Book":
        """Return the book with its record, if it has one, among the leftovers."""
        if self.record is None:
            return self
        return Book(None, (*self.leftovers, self.record.retired()))

    def cleaned(self, changes: Mapping[Leftover, Leftover | None]) -> "Book":
        """Return the book after some of the leftovers have become others, or none."""
        left = [changes.get(leftover, leftover) for leftover in self.leftovers]
        return replace(self, leftovers=tuple(filter(None, left)))


def _parse_record(raw: Mapping[str, Any]) -> Record:
    values = {
        **raw,
        "phase": Phase(raw["phase"]),
        "options": CaptureOptions(**raw["options"]),
        "captured": Captured.parse(raw["captured"]) if raw["captured"] else None,
        "disk_of": tuple(raw["disk_of"]),
    }
    return Record(**values)


def _record_to_wire(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    values["phase"] = record.phase.value
    values["options"] = asdict(record.options)
    values["disk_of"] = list(record.disk_of)
    values["captured"] = _captured_to_wire(record.captured) if record.captured else None
    return values


def _captured_to_wire(captured: Captured) -> dict[str, Any]:
    """Return of the agent's result what the delivery needs: all of it may be long."""
    return {
        "image_name": captured.image_name,
        "disk_format": captured.disk_format,
        "virtual_size": captured.virtual_size,
        "size": captured.size,
        "checksum": {"algorithm": "sha512", "value": captured.sha512},
        "lost": {"bytes": captured.lost},
        "encryption": captured.encrypted_for.to_wire() if captured.encrypted_for else None,
    }
