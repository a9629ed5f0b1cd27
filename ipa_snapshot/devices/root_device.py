# SPDX-License-Identifier: Apache-2.0
"""The rules by which a deployment chose its root device, applied again to find it.

Inside the agent the deployment's own code answers (``ipa_snapshot.extension``); here are the same
rules for a live system without one, and what both must refuse. The rules are those of
``get_os_install_device`` and ``guess_root_disk`` in ironic-python-agent; hints are matched by
ironic-lib.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyparsing
from ironic_lib import utils as ironic_lib_utils

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice

MIN_SIZE = 4 * 1024**3
Hints = Mapping[str, Any]


@dataclass(frozen=True)
class Expectation:
    """What the caller knows of the right disk, beyond the hints."""

    serial: str | None = None
    wwn: str | None = None
    any_root: bool = False

    def check(self, device: BlockDevice) -> None:
        """Raise DeviceNotFound unless ``device`` has the expected serial and WWN."""
        for what, expected, found in (
            ("serial", self.serial, device.serials),
            ("wwn", self.wwn, device.wwns),
        ):
            if expected is None or expected.strip().lower() in map(str.lower, found):
                continue
            raise errors.DeviceNotFound(
                "the root device %s has the %s %s, expected %s: this is not the disk that was "
                "meant; give root device hints that name it"
                % (device.name, what, " or ".join(found) or "unknown", expected)
            )


@dataclass(frozen=True)
class RootDevice:
    """The root device, and why it is that."""

    device: BlockDevice
    reason: str


def choose_root_device(devices: Sequence[BlockDevice], hints: Hints | None) -> RootDevice:
    """Choose among the candidate ``devices`` as a deployment with these ``hints`` did.

    :raises: InvalidRequest for hints that cannot be parsed, DeviceNotFound if none fits.
    """
    if hints:
        for device in devices:
            if matches(device, hints):
                return RootDevice(device, "the first that meets the root device hints")
        raise errors.DeviceNotFound(
            "none of the candidate disks (%s) meets the root device hints %s"
            % (_names(devices), dict(hints))
        )
    eligible = _eligible(devices)
    if not eligible:
        raise errors.DeviceNotFound(
            "none of the candidate disks (%s) has the 4 GiB that a root device must have "
            "without root device hints" % _names(devices)
        )
    device = min(eligible, key=lambda device: (device.size, device.name))
    return RootDevice(device, "the smallest with at least 4 GiB")


def refuse_ambiguity(
    devices: Iterable[BlockDevice], hints: Hints | None, expectation: Expectation
) -> None:
    """Raise DeviceNotFound if it is only a rule of thumb that tells the root device.

    Without hints a later boot may choose another disk than the deployment did: one was added,
    or a SAN's LUNs are visible now.
    """
    if hints or expectation.serial or expectation.wwn or expectation.any_root:
        return
    eligible = _eligible(devices)
    if len(eligible) > 1:
        raise errors.DeviceNotFound(
            "%d disks may be the root device (%s): give root device hints, or the expected "
            "serial or wwn, or say that any root will do (any_root)"
            % (len(eligible), _names(eligible))
        )


def matches(device: BlockDevice, hints: Hints) -> bool:
    """Tell whether ``device`` meets every one of the ``hints``.

    :raises: InvalidRequest for hints that cannot be parsed.
    """
    values = device.hint_values()
    unknown = set(hints) - set(values)
    if unknown:
        raise errors.InvalidRequest(
            "unknown root device hints: %s; known are %s"
            % (", ".join(sorted(unknown)), ", ".join(sorted(values)))
        )
    # a list, so that each of them is checked, also behind one that is not met
    met = [
        any(_meets(hint, value, expression) for value in values[hint] or (None,))
        for hint, expression in hints.items()
    ]
    return all(met)


def _meets(hint: str, value: object, expression: object) -> bool:
    # ironic-lib 7.0.0 finds no match where a device has several serials or WWNs, which the
    # agent's successor of it does: so values are shown to it one by one.
    key = _known_as(hint)
    known = value is not None or hint not in ("size", "rotational", "serial", "wwn")
    devices = [{"name": value if hint == "name" else "-", key: value}] if known else []
    try:
        ironic_lib_utils.parse_root_device_hints({key: expression})
        return any(True for _ in ironic_lib_utils.find_devices_by_hints(devices, {key: expression}))
    # What its grammar and its operators raise, for an expression that does not fit the hint.
    except (ValueError, TypeError, SyntaxError, pyparsing.ParseException) as exc:
        raise errors.InvalidRequest(
            "the root device hint %s=%s is not valid: %s" % (hint, expression, exc)
        ) from exc


def _known_as(hint: str) -> str:
    # Nor does it know the hint 'tran', which is a text like this one.
    return "model" if hint == "tran" else hint


def _eligible(devices: Iterable[BlockDevice]) -> list[BlockDevice]:
    return [device for device in devices if device.size >= MIN_SIZE]


def _names(devices: Iterable[BlockDevice]) -> str:
    return ", ".join("%s: %d bytes" % (device.name, device.size) for device in devices) or "none"
