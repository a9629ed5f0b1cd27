# SPDX-License-Identifier: Apache-2.0
"""How fast a storage takes what is written to it."""

import os
import time
import uuid

from snapshot_core.storage.base import Storage

_MIB = 1024 * 1024
_FAST = 100e6


def measure_rate(storage: Storage) -> float:
    """Write something to the storage, remove it, and return the rate in bytes a second.

    A slow link is known by 2 MiB; on a fast one these say more of the way there and back.

    :raises: WriteFailed, StorageUnavailable
    """
    rate = _rate(storage, 2 * _MIB)
    return rate if rate < _FAST else max(rate, _rate(storage, 32 * _MIB))


def _rate(storage: Storage, size: int) -> float:
    name = "ipa-snapshot-%s" % uuid.uuid4().hex
    noise = os.urandom(_MIB)  # a proxy that compresses is not to be measured
    began = time.perf_counter()
    try:
        storage.write(name, [noise] * (size // _MIB), size)
        return size / (time.perf_counter() - began)
    finally:
        storage.discard(name)
