# SPDX-License-Identifier: Apache-2.0
"""How fast a storage takes what is written to it."""

import os
import time
import uuid
from dataclasses import dataclass

from snapshot_core.storage.base import Storage

_MIB = 1024 * 1024
_LITTLE, _MORE = 2 * _MIB, 32 * _MIB
_FAST = 100e6
# A server may have all of a request that was broken off, and store it after it was removed.
_LATE_S = 2.0


@dataclass(frozen=True)
class Link:
    """What a storage takes, in bytes a second, and how many bytes it was sent to see that."""

    rate: float
    bytes_sent: int


def measure_rate(storage: Storage) -> Link:
    """Write something to the storage, remove it, and return how fast that was.

    A slow link is known by 2 MiB; on a fast one these say more of the way there and back.

    :raises: WriteFailed, StorageUnavailable
    """
    rate = _rate(storage, _LITTLE)
    if rate < _FAST:
        return Link(rate, _LITTLE)
    return Link(max(rate, _rate(storage, _MORE)), _LITTLE + _MORE)


def _rate(storage: Storage, size: int) -> float:
    name = "ipa-snapshot-%s" % uuid.uuid4().hex
    noise = os.urandom(_MIB)  # a proxy that compresses is not to be measured
    began = time.perf_counter()
    try:
        storage.write(name, [noise] * (size // _MIB), size)
        return size / (time.perf_counter() - began)
    except BaseException:
        time.sleep(_LATE_S)
        raise
    finally:
        storage.discard(name)
