# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a partition its file system uses: one module a file system.

:data:`MAPPERS` names them as blkid does; what it does not name is copied whole, for the reason in
:data:`NOT_EXAMINED` where there is one to tell.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ipa_snapshot.devices.file_systems.base import Mapper
from ipa_snapshot.devices.file_systems.btrfs import map_btrfs
from ipa_snapshot.devices.file_systems.exfat import map_exfat
from ipa_snapshot.devices.file_systems.ext import map_ext
from ipa_snapshot.devices.file_systems.f2fs import map_f2fs
from ipa_snapshot.devices.file_systems.fat import map_vfat
from ipa_snapshot.devices.file_systems.ntfs import map_ntfs
from ipa_snapshot.devices.file_systems.swap import map_swap
from ipa_snapshot.devices.file_systems.xfs import map_xfs

MAPPERS: Mapping[str, Mapper] = MappingProxyType(
    {
        "btrfs": map_btrfs,
        "exfat": map_exfat,
        "ext2": map_ext,
        "ext3": map_ext,
        "ext4": map_ext,
        "f2fs": map_f2fs,
        "ntfs": map_ntfs,
        "swap": map_swap,
        "vfat": map_vfat,
        "xfs": map_xfs,
    }
)

NOT_EXAMINED: Mapping[str, str] = MappingProxyType(
    {
        "LVM2_member": "LVM in a logical volume",
        "linux_raid_member": "a member of a RAID",
        "crypto_LUKS": "LUKS: encrypted",
        "BitLocker": "BitLocker: encrypted",
        "bcache": "bcache: its cache may hold what is not here",
        "zfs_member": "ZFS: not examined",
        "ldm": "a dynamic disk of Windows: its volumes may go on elsewhere",
        "storage_spaces": "a storage pool of Windows",
        "swsuspend": "a hibernated system",
    }
)
