# SPDX-License-Identifier: Apache-2.0
"""List the block devices of a live system, without an agent: lsblk, udev and sysfs.

The same sources, in the same order, as ironic-python-agent's ``list_all_block_devices``.
"""

import json
import os
from pathlib import Path
from typing import Any

import pyudev
from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.block_device import BlockDevice, distinct
from snapshot_core import process

LOG = log.getLogger(__name__)

_COLUMNS = ("KNAME", "TYPE", "SIZE", "MODEL", "ROTA", "SERIAL", "WWN", "LOG-SEC", "TRAN")
_BY_PATH = Path("/dev/disk/by-path")


def list_candidates() -> list[BlockDevice]:
    """Return the devices that may be the root device, in the kernel's order.

    These are disks, RAID volumes and multipath maps; not partitions, logical volumes, loop,
    floppy, optical and RAM devices, empty ones, nor the members of a multipath map.

    :raises: DeviceNotFound when the devices cannot be listed.
    """
    by_path = _by_path_names()
    return [_describe(row, by_path) for row in _lsblk() if _is_candidate(row)]


def _lsblk() -> list[dict[str, Any]]:
    # Without the NAME column lsblk prints no tree: one flat list, a device behind two others twice.
    try:
        out = process.run(
            "lsblk", "--bytes", "--ascii", "--all", "--json", "-o", ",".join(_COLUMNS)
        )
        rows = json.loads(out)["blockdevices"]
    except (process.ProgramFailed, ValueError, KeyError) as exc:
        raise errors.DeviceNotFound("the block devices cannot be listed: %s" % exc) from exc
    return list({row["kname"]: row for row in rows}.values())


def _is_candidate(row: dict[str, Any]) -> bool:
    kname, kind = str(row["kname"]), str(row["type"])
    if kind not in ("disk", "mpath") and "raid" not in kind:
        return False
    if kname.startswith(("fd", "ram", "zram")) or not int(row["size"] or 0):
        return False
    return not _is_multipath_member(kname)


def _is_multipath_member(kname: str) -> bool:
    uuids = Path("/sys/class/block", kname, "holders").glob("*/dm/uuid")
    return any(_read(uuid).startswith("mpath-") for uuid in uuids)


def _describe(row: dict[str, Any], by_path: dict[str, str]) -> BlockDevice:
    name = "/dev/%s" % row["kname"]
    udev = _udev_properties(name)
    return BlockDevice(
        name=name,
        size=int(row["size"]),
        model=row["model"],
        vendor=_read(Path("/sys/class/block", row["kname"], "device/vendor")) or None,
        serials=distinct([row["serial"], udev("SERIAL_SHORT"), udev("SERIAL")]),
        wwns=distinct([row["wwn"], udev("WWN")]),
        wwn_with_extension=udev("WWN_WITH_EXTENSION"),
        wwn_vendor_extension=udev("WWN_VENDOR_EXTENSION"),
        rotational=bool(int(row["rota"])),
        hctl=_hctl(row["kname"]),
        by_path=by_path.get(name),
        tran=row["tran"],
        logical_sector_size=int(row["log-sec"]),
    )


def _udev_properties(name: str) -> Any:
    try:
        device = pyudev.Devices.from_device_file(pyudev.Context(), name)
    except (pyudev.DeviceNotFoundError, OSError) as exc:
        LOG.warning("udev does not know %(name)s: %(reason)s", {"name": name, "reason": exc})
        return lambda key: None
    properties = device.properties
    # a device mapper's map has its identity under DM_ instead of ID_
    return lambda key: properties.get("ID_" + key) or properties.get("DM_" + key)


def _hctl(kname: str) -> str | None:
    try:
        return os.listdir("/sys/class/block/%s/device/scsi_device" % kname)[0]
    except (OSError, IndexError):
        return None


def _by_path_names() -> dict[str, str]:
    try:
        return {os.path.realpath(link): str(link) for link in sorted(_BY_PATH.iterdir())}
    except OSError:
        return {}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
