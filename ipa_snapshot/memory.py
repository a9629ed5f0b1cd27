# SPDX-License-Identifier: Apache-2.0
"""How much memory there is to fill: what is held in a tmpfs is looked for here before."""

import psutil

# What the rest of the system, the buffers of the programs that fill it included, is left with.
_RESERVE = 512 * 1024 * 1024


def spare_memory() -> int:
    """Return how many bytes may be filled; 0 where none may."""
    return max(0, int(psutil.virtual_memory().available) - _RESERVE)
