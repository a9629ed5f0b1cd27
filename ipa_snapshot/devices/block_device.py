# SPDX-License-Identifier: Apache-2.0
"""A block device as the root device rules see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BlockDevice:
    """What is known of a device before it is opened; ``size`` in bytes.

    A device may have several serials and WWNs (lsblk and udev do not agree on them); a hint or
    an expectation is met if any of them meets it.
    """

    name: str
    size: int
    model: str | None = None
    vendor: str | None = None
    serials: tuple[str, ...] = ()
    wwns: tuple[str, ...] = ()
    wwn_with_extension: str | None = None
    wwn_vendor_extension: str | None = None
    rotational: bool | None = None
    hctl: str | None = None
    by_path: str | None = None
    tran: str | None = None
    logical_sector_size: int = 512

    def hint_values(self) -> dict[str, tuple[Any, ...]]:
        """Return for each root device hint the values that may meet it.

        As in the agent, an unknown serial or WWN meets nothing, and what else is unknown is
        compared as None.
        """
        single = {
            "name": self.name,
            "size": self.size,
            "model": self.model,
            "vendor": self.vendor,
            "wwn_with_extension": self.wwn_with_extension,
            "wwn_vendor_extension": self.wwn_vendor_extension,
            "rotational": self.rotational,
            "hctl": self.hctl,
            "by_path": self.by_path,
            "tran": self.tran,
        }
        values = {hint: (value,) for hint, value in single.items()}
        return {**values, "serial": self.serials, "wwn": self.wwns}

    def to_wire(self) -> dict[str, Any]:
        """Return the ``device`` of a snapshot's result."""
        return {
            "name": self.name,
            "serial": self.serials[0] if self.serials else None,
            "wwn": self.wwns[0] if self.wwns else None,
            "size": self.size,
            "logical_sector_size": self.logical_sector_size,
        }

    @classmethod
    def of_agent(cls, raw: Mapping[str, Any]) -> "BlockDevice":
        """Make one of a serialized ``BlockDevice`` of ironic-python-agent.

        The agent gives ``serial`` and ``wwn`` as a text, or as a list with gaps.
        """
        return cls(
            name=raw["name"],
            size=int(raw["size"] or 0),
            model=raw.get("model"),
            vendor=raw.get("vendor"),
            serials=distinct(raw.get("serial")),
            wwns=distinct(raw.get("wwn")),
            wwn_with_extension=raw.get("wwn_with_extension"),
            wwn_vendor_extension=raw.get("wwn_vendor_extension"),
            rotational=raw.get("rotational"),
            hctl=raw.get("hctl"),
            by_path=raw.get("by_path"),
            tran=raw.get("tran"),
            logical_sector_size=int(raw.get("logical_sectors") or 512),
        )


def distinct(values: object) -> tuple[str, ...]:
    """Return the texts of ``values`` (a text, a list with gaps, or None), each once, in order."""
    several = values if isinstance(values, list | tuple) else [values]
    return tuple(dict.fromkeys(str(value).strip() for value in several if value))
