# SPDX-License-Identifier: Apache-2.0
"""The writer ``davfs``: the specification's way, ``qemu-img convert`` into a davfs2 mount.

davfs2 keeps the whole file in its cache, sends nothing before the file is closed, and reports
success whatever becomes of the upload. So it gets a cache that is its own and limited, only where
there is memory for the whole image; and what it says is not believed: the caller asks the server.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from oslo_log import log

from ipa_snapshot import errors
from ipa_snapshot.devices.source import Source
from ipa_snapshot.images import qcow2
from ipa_snapshot.memory import spare_memory
from ipa_snapshot.writers import davfs2
from ipa_snapshot.writers.base import Destination, Writer, Written
from ipa_snapshot.writers.convert import convert_into
from snapshot_core import mounts
from snapshot_core.image_options import ImageOptions
from snapshot_core.progress import Meter

LOG = log.getLogger(__name__)


class DavfsWriter(Writer):
    """Lets qemu-img write into a davfs2 mount, or into a directory for a ``file`` URL."""

    schemes = frozenset({"http", "https", "file"})
    verifies_always = True

    def write(
        self, source: Source, destination: Destination, options: ImageOptions, meter: Meter
    ) -> Written:
        """See :meth:`.Writer.write`."""
        with destination.storage.local_file(destination.part) as target:
            if target is not None:
                return convert_into(target, destination.part, source, options, meter)
        with self._mounted(destination, _cache_size(source, meter), meter) as directory:
            target = directory / destination.part
            try:
                return convert_into(target, destination.part, source, options, meter)
            except BaseException:
                # davfs2 1.6.1 uploads what it has of a file when it is unmounted.
                with contextlib.suppress(OSError):
                    target.unlink()
                raise

    @contextlib.contextmanager
    def _mounted(self, destination: Destination, size: int, meter: Meter) -> Iterator[Path]:
        davfs2.check(destination)
        with (
            _private_directory() as private,
            mounts.mounted(
                "tmpfs", "tmpfs", davfs2.cache_mount_options(size), davfs2.CACHE_PARENT
            ) as cache,
        ):
            config = davfs2.write_config(Path(private), cache, size, destination)
            url = str(destination.location)
            options = davfs2.mount_options(config)
            with (
                davfs2.UploadWatch(meter) as upload,
                mounts.mounted("davfs", url, options) as directory,
            ):
                upload.attach(directory)
                yield directory
                upload.begin(directory / destination.part)


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="ipa-snapshot-davfs2-")
    except OSError as exc:
        raise errors.NotEnoughMemory(
            "there is no temporary directory for davfs2's configuration: %s" % exc
        ) from exc


def _cache_size(source: Source, meter: Meter) -> int:
    """Return the size of the cache that the image surely fits into, in bytes.

    :raises: NotEnoughMemory
    """
    available = spare_memory()
    at_most = source.size + source.size // 100 + qcow2.OVERHEAD
    if at_most > available:
        LOG.info("The disk is larger than the free memory: reading it to see what is not zero")
        meter.phase("measure", source.size)
        at_most = qcow2.needed_space(source, meter.done_to)
    if at_most > available:
        raise errors.NotEnoughMemory(
            "davfs2 keeps the whole image in memory: the image of %s may need %d MiB, and %d MiB "
            "are free; use the writer 'stream', or more memory"
            % (source.path, at_most >> 20, available >> 20)
        )
    return at_most
