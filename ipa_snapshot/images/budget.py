# SPDX-License-Identifier: Apache-2.0
"""The memory that a snapshot may take, in one place: everything that is held is counted here."""

import os
from dataclasses import dataclass

MIB = 1024 * 1024
_MOST_THREADS = 8


@dataclass(frozen=True)
class Budget:
    """What is held at most at one moment; sizes in bytes.

    :ivar threads: how many read and compress; each reads into a window of its own.
    :ivar window: the bytes of the disk that are read at once.
    :ivar windows_ahead: how many windows are in work or done, and wait to be taken.
    :ivar waiting: compressed clusters that wait for their place in the image.
    :ivar block: the bytes that are handed to the storage at once: those of the smallest cluster,
        so that none which is not compressed is copied for it.
    :ivar blocks_ahead: how many blocks are made before the storage asks for them.
    :ivar part: what the storage keeps, to send it again.
    """

    threads: int
    window: int = 4 * MIB
    windows_ahead: int = 0
    waiting: int = 40 * MIB
    block: int = 256 * 1024
    blocks_ahead: int = 0
    part: int = 0

    @classmethod
    def for_machine(cls, part: int = 0, cores: int | None = None) -> "Budget":
        """Return the budget for so many cores, by default those that are here.

        One thread a core compresses; with more than eight the memory would grow.

        :param part: what the storage keeps of an image; 0 where none is stored.
        """
        threads = min(cores or os.cpu_count() or 1, _MOST_THREADS)
        block = cls.block
        # A thread that is done goes on with another window. While a part is on its way the next is
        # made: with half of it the wire waits, and 1 GB at 1 Gbit/s takes 7 % longer.
        return cls(
            threads, windows_ahead=threads + 2, blocks_ahead=max(8, part // block), part=part
        )

    @property
    def total(self) -> int:
        """All of it together, each compressed window counted as if it had become no smaller."""
        windows = (self.threads + self.windows_ahead) * self.window
        # one block more is being made, one is being sent, and one fills a part
        blocks = (self.blocks_ahead + 3) * self.block
        return windows + self.waiting + blocks + self.part
