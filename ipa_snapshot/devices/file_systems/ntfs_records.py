# SPDX-License-Identifier: Apache-2.0
"""Where the own files of an NTFS lie: its boot sector, file records and index blocks.

Only what a base record itself names is read: a file in so many pieces that an attribute list is
needed is not understood. All is little-endian. Layout: the NTFS documentation of the Linux-NTFS
project, and ntfs-3g 2022.10.3, include/ntfs-3g/layout.h.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ipa_snapshot.devices.file_systems.base import NotUnderstood

ATTRIBUTE_LIST = 0x20
NAME, VOLUME_INFORMATION, DATA, INDEX_ROOT, INDEX_ALLOCATION = 0x30, 0x70, 0x80, 0x90, 0xA0
BITMAP = 0xB0
_END = 0xFFFFFFFF
_PIECE = 4 * 1024 * 1024
_STRIDE = 512  # each such part of a record ends in a number that tells whether all were written
_MOST_CLUSTER = 65536
_IN_USE = 0x1
_LAST_ENTRY = 0x2
_LARGE_INDEX = 0x1


@dataclass(frozen=True)
class Boot:
    """What the boot sector says: sizes in bytes, ``clusters`` their number, ``mft`` a cluster."""

    cluster: int
    clusters: int
    mft: int
    record: int


@dataclass(frozen=True)
class Stream:
    """An attribute's content: ``size`` bytes in ``runs`` of the device, in the file's order.

    What is behind ``initialized`` has never been written.
    """

    fd: int
    runs: tuple[tuple[int, int], ...]
    size: int
    initialized: int

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes.

        :raises: NotUnderstood if they are not there, or in a piece that other records name; OSError
        """
        if start + length > self.initialized:
            raise NotUnderstood("a file that ends too early")
        parts, end = [], start + length
        position = 0
        for run, size in self.runs:
            first, last = max(start, position), min(end, position + size)
            if first < last:
                parts.append(os.pread(self.fd, last - first, run + first - position))
            position += size
        content = b"".join(parts)
        if len(content) != length:
            raise NotUnderstood("a file in more pieces than its record names")
        return content

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it.

        :raises: NotUnderstood, OSError
        """
        for start in range(0, self.size, _PIECE):
            yield self.read(start, min(_PIECE, self.size - start))


def read_boot_sector(sector: bytes) -> Boot:
    """Return what a boot sector says.

    :raises: NotUnderstood
    """
    if len(sector) != 512 or sector[3:11] != b"NTFS    " or sector[510:] != b"\x55\xaa":
        raise NotUnderstood("no boot sector")
    size, per_cluster = struct.unpack_from("<HB", sector, 11)
    sectors, mft = struct.unpack_from("<QQ", sector, 40)
    (record,) = struct.unpack_from("<b", sector, 64)
    cluster = size * per_cluster
    if size not in (512, 1024, 2048, 4096) or per_cluster not in (1 << n for n in range(8)):
        raise NotUnderstood("sectors of %d bytes, %d to a cluster" % (size, per_cluster))
    # negative where a record is smaller than a cluster: the logarithm of its size
    record = record * cluster if record > 0 else 1 << -record
    clusters = sectors // per_cluster
    if cluster > _MOST_CLUSTER or record not in (1024, 2048, 4096) or not 0 < mft < clusters:
        raise NotUnderstood("a boot sector that contradicts itself")
    return Boot(cluster, clusters, mft, record)


def fixed_up(block: bytes, magic: bytes) -> bytes:
    """Return a block with the bytes in place that its update sequence array keeps.

    :raises: NotUnderstood if it has another magic, or was not written to its end.
    """
    place, count = struct.unpack_from("<HH", block, 4)
    if block[:4] != magic or (count - 1) * _STRIDE != len(block) or place + 2 * count > _STRIDE - 2:
        raise NotUnderstood("a record that is not %s" % magic.decode())
    number, fixed = block[place : place + 2], bytearray(block)
    for part in range(1, count):
        end = part * _STRIDE
        if block[end - 2 : end] != number:
            raise NotUnderstood("a record that was not written to its end")
        fixed[end - 2 : end] = block[place + 2 * part : place + 2 * part + 2]
    return bytes(fixed)


@dataclass(frozen=True)
class Record:
    """A file record: its attributes, as ``(type, name, attribute)``."""

    fd: int
    boot: Boot
    attributes: tuple[tuple[int, str, bytes], ...]

    def stream(self, kind: int, name: str = "") -> Stream:
        """Return an attribute's content that lies outside of the record.

        :raises: NotUnderstood
        """
        attribute = self._one(kind, name)
        first, last, pairs, unit = struct.unpack_from("<qqHH", attribute, 16)
        size, initialized = struct.unpack_from("<qq", attribute, 48)
        flags = struct.unpack_from("<H", attribute, 12)[0]
        if not attribute[8] or first or flags or unit or not 0 <= initialized <= size:
            raise NotUnderstood("a file in another form (compressed, sparse, encrypted, in pieces)")
        runs = tuple(read_runs(attribute[pairs:], self.boot))
        if sum(length for _start, length in runs) != (last + 1) * self.boot.cluster:
            raise NotUnderstood("a file whose record contradicts itself")
        return Stream(self.fd, runs, size, initialized)

    def value(self, kind: int, name: str = "") -> bytes:
        """Return an attribute's content, within the record or outside.

        :raises: NotUnderstood, OSError
        """
        attribute = self._one(kind, name)
        if attribute[8]:
            stream = self.stream(kind, name)
            if stream.size > _PIECE:
                raise NotUnderstood("an attribute of %d bytes" % stream.size)
            return stream.read(0, stream.size)
        length, start = struct.unpack_from("<IH", attribute, 16)
        if start + length > len(attribute):
            raise NotUnderstood("an attribute beyond its own end")
        return attribute[start : start + length]

    def has(self, kind: int, name: str = "") -> bool:
        """Return whether it has such an attribute.

        :raises: NotUnderstood where attributes lie in other records, too.
        """
        if any(found[0] == ATTRIBUTE_LIST for found in self.attributes):
            raise NotUnderstood("a record that goes on in others")
        return any(found[:2] == (kind, name) for found in self.attributes)

    def _one(self, kind: int, name: str) -> bytes:
        found = [one[2] for one in self.attributes if one[:2] == (kind, name)]
        if len(found) != 1:
            raise NotUnderstood("a record with %d attributes 0x%x %s" % (len(found), kind, name))
        return found[0]


def read_record(fd: int, boot: Boot, block: bytes) -> Record:
    """Return a file record in use.

    :raises: NotUnderstood
    """
    record = fixed_up(block, b"FILE")
    place, flags, end = struct.unpack_from("<HHI", record, 20)
    if not flags & _IN_USE or end > len(record) or struct.unpack_from("<Q", record, 32)[0]:
        raise NotUnderstood("a record that is no file's")
    found = []
    while struct.unpack_from("<I", record, place)[0] != _END:
        kind, length, _outside, characters, name = struct.unpack_from("<IIBBH", record, place)
        if length < 24 or place + length > end:
            raise NotUnderstood("an attribute beyond the end of its record")
        attribute = record[place : place + length]
        found.append((kind, attribute[name : name + 2 * characters].decode("utf-16-le"), attribute))
        place += length
    return Record(fd, boot, tuple(found))


def read_runs(pairs: bytes, boot: Boot) -> Iterator[tuple[int, int]]:
    """Yield ``(start, length)`` in bytes of the device.

    :raises: NotUnderstood for one outside of the volume, or none (a hole).
    """
    place = cluster = 0
    while pairs[place]:
        sizes = pairs[place] & 0xF, pairs[place] >> 4
        middle = place + 1 + sizes[0]
        end = middle + sizes[1]
        length = int.from_bytes(pairs[place + 1 : middle], "little", signed=True)
        cluster += int.from_bytes(pairs[middle:end], "little", signed=True)
        if not all(sizes) or length <= 0 or not 0 <= cluster <= boot.clusters - length:
            raise NotUnderstood("a file with a hole, or outside of the volume")
        yield cluster * boot.cluster, length * boot.cluster
        place = end


def is_large(index: bytes) -> bool:
    """Return whether an index has blocks outside of its root."""
    return bool(index[16 + 12] & _LARGE_INDEX)


def index_names(index: bytes, header: int) -> Iterator[tuple[str, int]]:
    """Yield the names of an index of names, with the numbers of their records.

    :param header: where the header of its entries begins.
    :raises: NotUnderstood
    """
    first, length = struct.unpack_from("<II", index, header)
    place, end = header + first, header + length
    if end > len(index):
        raise NotUnderstood("an index beyond its own end")
    while place < end:
        number, size, _key, flags = struct.unpack_from("<QHHH", index, place)
        if size < 16 or place + size > end:
            raise NotUnderstood("an entry beyond the end of its index")
        if flags & _LAST_ENTRY:
            return
        name = index[place + 82 : place + 82 + 2 * index[place + 80]]
        yield name.decode("utf-16-le", "replace"), number & 0xFFFFFFFFFFFF
        place += size
    raise NotUnderstood("an index without an end")
