# SPDX-License-Identifier: Apache-2.0
"""What a physical volume says of itself: its label, its header, and the text in its metadata areas.

Layout: ``label_header``, ``pv_header``, ``pv_header_extension``, ``mda_header`` and ``raw_locn`` of
LVM 2.03 (``lib/label/label.h``, ``lib/format_text/layout.h``); everything is little endian.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ipa_snapshot.devices.extents import Extents
from ipa_snapshot.devices.file_systems.base import NotUnderstood

_SECTOR = 512
_LABEL_SECTORS = 4
_LABEL = struct.Struct("<8sQII8s")
_PV_HEADER = struct.Struct("<32sQ")
_AREA = struct.Struct("<QQ")
_EXTENSION = struct.Struct("<II")
_MDA_HEADER = struct.Struct("<I16sIQQ")
_RAW_LOCATION = struct.Struct("<QQII")
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_IGNORED = 1
_IN_USE = 1  # PV_EXT_USED
_INITIAL_CRC = 0xF597A6CF
# The area of a usual volume has 1 MiB, and holds a text twice.
_MOST_TEXT = 1024 * 1024


@dataclass(frozen=True)
class PhysicalVolume:
    """A physical volume's own words; places in bytes from its first.

    :param uuid: without dashes.
    :param data: where its extents begin.
    :param metadata_areas: what of it holds metadata.
    :param text_areas: ``(offset, length)`` of each area that may hold a text.
    """

    uuid: str
    data: int
    metadata_areas: Extents
    text_areas: tuple[tuple[int, int], ...]


def read_physical_volume(fd: int, start: int, size: int) -> PhysicalVolume:
    """Read the label and the header that lie at ``start`` of a disk.

    :raises: NotUnderstood, OSError
    """
    label = _find_label(os.pread(fd, _LABEL_SECTORS * _SECTOR, start))
    uuid, _size = _PV_HEADER.unpack_from(label, _LABEL.size)
    try:
        data_areas, place = _areas(label, _LABEL.size + _PV_HEADER.size)
        metadata_areas, place = _areas(label, place)
        version, flags = _EXTENSION.unpack_from(label, place)
        boot_areas, _place = _areas(label, place + _EXTENSION.size) if version else ([], 0)
    except struct.error as exc:
        raise NotUnderstood("the list of its areas has no end") from exc
    if version > 2 or flags & ~_IN_USE:
        raise NotUnderstood("an LVM header of version %d with flags 0x%x" % (version, flags))
    if boot_areas:
        raise NotUnderstood("LVM keeps an area for a boot loader")
    if len(data_areas) != 1 or data_areas[0][1] != 0:
        raise NotUnderstood("LVM names %d data areas, or the size of one" % len(data_areas))
    if not uuid.isalnum():
        raise NotUnderstood("an LVM uuid that cannot be")
    if len(metadata_areas) > 2:
        raise NotUnderstood("LVM names %d metadata areas" % len(metadata_areas))
    if any(offset < _SECTOR or offset + length > size for offset, length in metadata_areas):
        raise NotUnderstood("an LVM metadata area is not within the partition")
    return PhysicalVolume(
        uuid.decode("ascii"),
        data_areas[0][0],
        Extents([*metadata_areas, (0, _LABEL_SECTORS * _SECTOR)]),
        tuple(metadata_areas),
    )


def read_texts(fd: int, start: int, volume: PhysicalVolume) -> Iterator[str]:
    """Yield the metadata of a physical volume: none if that is in others alone.

    :raises: NotUnderstood, OSError
    """
    for offset, length in volume.text_areas:
        text = _read_area(fd, start, offset, length)
        if text is not None:
            yield text


def checksum(content: bytes) -> int:
    """Return LVM's checksum: CRC-32 with another initial value, and not inverted."""
    return zlib.crc32(content, _INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _find_label(begin: bytes) -> bytes:
    found = list(_labels(begin))
    if len(found) != 1:
        raise NotUnderstood("%d valid LVM labels, and not one" % len(found))
    return found[0]


def _labels(begin: bytes) -> Iterator[bytes]:
    for number in range(len(begin) // _SECTOR):
        sector = begin[number * _SECTOR : (number + 1) * _SECTOR]
        name, own_number, crc, offset, kind = _LABEL.unpack_from(sector)
        if name != b"LABELONE":
            continue
        if own_number != number or crc != checksum(sector[20:]):
            raise NotUnderstood("an LVM label that is damaged")
        if kind != b"LVM2 001" or offset != _LABEL.size:
            raise NotUnderstood("an LVM label of another kind")
        yield sector


def _areas(label: bytes, place: int) -> tuple[list[tuple[int, int]], int]:
    """Return a list that an area at 0 ends, and the place behind it."""
    areas = []
    while (area := _AREA.unpack_from(label, place))[0] != 0:
        areas.append(area)
        place += _AREA.size
    return areas, place + _AREA.size


def _read_area(fd: int, start: int, offset: int, size: int) -> str | None:
    """Return the text of a metadata area, None if it has none."""
    header = os.pread(fd, _SECTOR, start + offset)
    if len(header) != _SECTOR or _MDA_HEADER.unpack_from(header)[0] != checksum(header[4:]):
        raise NotUnderstood("the checksum of an LVM metadata area is wrong")
    _crc, magic, version, own_offset, own_size = _MDA_HEADER.unpack_from(header)
    if (magic, version, own_offset, own_size) != (_MDA_MAGIC, 1, offset, size):
        raise NotUnderstood("an LVM metadata area of version %d that is not known" % version)
    text_offset, length, crc, flags = _RAW_LOCATION.unpack_from(header, _MDA_HEADER.size)
    if any(header[_MDA_HEADER.size + _RAW_LOCATION.size :]):
        raise NotUnderstood("a change of LVM's metadata was begun and not finished")
    if flags == _IGNORED or not text_offset:
        return None
    if flags or not _SECTOR <= text_offset < size or length > min(size - _SECTOR, _MOST_TEXT):
        raise NotUnderstood("LVM's metadata of %d bytes at %d of %d" % (length, text_offset, size))
    # a ring: what does not fit before the area's end goes on behind its header
    first = min(length, size - text_offset)
    content = os.pread(fd, first, start + offset + text_offset)
    content += os.pread(fd, length - first, start + offset + _SECTOR)
    if len(content) != length or checksum(content) != crc:
        raise NotUnderstood("the checksum of LVM's metadata is wrong")
    return content.decode("latin-1").rstrip("\0")
