# SPDX-License-Identifier: Apache-2.0
"""What the tools print: dumpe2fs 1.47, xfs_db 6.1, btrfs-progs 6.2."""

DUMPE2FS = """\
Filesystem volume name:   <none>
Last mounted on:          <not available>
Filesystem magic number:  0xEF53
Filesystem features:      has_journal ext_attr extent 64bit flex_bg sparse_super metadata_csum
Filesystem state:         clean
Block count:              1000
First block:              0
Block size:               4096
Blocks per group:         600
Inode size:\t          256
Journal inode:            8
Total journal blocks:     16
Journal start:            0


Group 0: (Blocks 0-599) csum 0x1b18 [ITABLE_ZEROED]
  Primary superblock at 0, Group descriptors at 1-1
  Block bitmap at 2 (+2), csum 0x414dbddf
  Inode table at 4-13 (+4)
  550 free blocks, 100 free inodes, 2 directories, 99 unused inodes
  Free blocks: 50-599
  Free inodes: 12-8192
Group 1: (Blocks 600-999) csum 0x4b18 [INODE_UNINIT, BLOCK_UNINIT, ITABLE_ZEROED]
  Inode table at 14-23 (bg #0 + 14)
  300 free blocks, 160 free inodes, 0 directories, 160 unused inodes
  Free blocks: 600, 602-899, 999
  Free inodes: 13-24
"""
XFS_SUPERBLOCK = """\
magicnum = 0x58465342
blocksize = 4096
dblocks = 190
rextents = 0
rblocks = 0
uuid = cab580a2-3244-44ca-8bd0-4ff1009163fb
logstart = 65542
agblocks = 100
agcount = 2
logblocks = 16384
versionnum = 0xb4a5
fname = "\\000\\000"
inprogress = 0
features2 = 0x18a
features_incompat = 0xb
crc = 0x6e8ca2ac (correct)
"""
XFS_FREE = """\
    agno    agbno      len
       0        6        1
       0       24       70
       1        6        2
   from      to extents  blocks    pct
      1       1      16      16   0.02
"""
BTRFS_CHUNKS = """\
btrfs-progs v6.2
chunk tree
\titem 0 key (DEV_ITEMS DEV_ITEM 1) itemoff 16185 itemsize 98
\t\tdevid 1 total_bytes 314572800 bytes_used 125829120
\titem 1 key (FIRST_CHUNK_TREE CHUNK_ITEM 1000000) itemoff 16105 itemsize 80
\t\tlength 8192 owner 2 stripe_len 65536 type DATA|single
\t\tio_align 65536 io_width 65536 sector_size 4096
\t\tnum_stripes 1 sub_stripes 1
\t\t\tstripe 0 devid 1 offset 5000000
\titem 2 key (FIRST_CHUNK_TREE CHUNK_ITEM 1008192) itemoff 15993 itemsize 112
\t\tlength 8192 owner 2 stripe_len 65536 type METADATA|DUP
\t\t\tstripe 0 devid 1 offset 6000000
\t\t\tstripe 1 devid 1 offset 7000000
"""
