# SPDX-License-Identifier: Apache-2.0
"""The writer ``nfs``: ``qemu-img convert`` into a directory, a mounted export or a local one."""

from ipa_snapshot import errors
from ipa_snapshot.devices.source import Source
from ipa_snapshot.writers.base import Destination, Writer, Written
from ipa_snapshot.writers.convert import convert_into
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter


class NfsWriter(Writer):
    """Lets qemu-img write where the storage is a directory; an export is mounted already."""

    schemes = frozenset({"nfs", "file"})

    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """See :meth:`.Writer.write`."""
        with destination.storage.local_file(destination.part) as target:
            if target is None:
                raise errors.InvalidRequest("%s is not a directory" % destination.location)
            return convert_into(target, destination.part, source, options, meter)
