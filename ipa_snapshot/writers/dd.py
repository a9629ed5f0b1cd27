# SPDX-License-Identifier: Apache-2.0
"""The writer ``dd``: every byte of the disk, in one stream, with no copy anywhere.

The specification's way of last resort: it needs nothing but a server that takes a PUT, and sends
the zeros too. The conductor side turns the raw image into a qcow2.
"""

import hashlib
from collections.abc import Iterator

from ipa_snapshot.devices.source import Source
from ipa_snapshot.writers.base import Destination, Writer, Written
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter


class DdWriter(Writer):
    """Stores the raw bytes, whatever format the options ask for: the result says ``raw``."""

    schemes = frozenset({"http", "https", "nfs", "file"})
    passes_bytes = True

    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """See :meth:`.Writer.write`."""
        sha512 = hashlib.sha512()

        def stream() -> Iterator[bytes]:
            for chunk in meter.count(source.chunks(), sent=True):
                sha512.update(chunk)
                yield chunk

        meter.phase("stream", source.size)
        destination.write(stream(), source.size)
        size = source.size
        return Written(size, sha512.hexdigest(), "raw", "none", bytes_read=size, bytes_sent=size)
