# SPDX-License-Identifier: Apache-2.0
"""Mount a remote directory for as long as it is needed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from oslo_log import log

from snapshot_core import errors, process

LOG = log.getLogger(__name__)

_MOUNT_TIMEOUT_S = 120


@contextlib.contextmanager
def mounted(
    fs_type: str, source: str, options: Sequence[str], parent: str | None = None,
    *, is_synced: bool = False,
) -> Iterator[Path]:  # fmt: skip
    """Mount ``source`` in a private directory, yield that, and unmount.

    The unmount has no time limit: davfs2 uploads meanwhile. Its failure is a
    failure of the whole, unless one is already on its way, or nothing depends on it.

    :param parent: where to make the directory; by default the system's temporary directory.
    :param is_synced: whether what was written is where it belongs before it is unmounted.
    :raises: StorageUnavailable when it cannot be mounted, WriteFailed when not unmounted.
    """
    try:
        target = Path(tempfile.mkdtemp(prefix="ipa-snapshot-mount-", dir=parent))
    except OSError as exc:
        raise errors.StorageUnavailable(
            "there is no directory to mount %s on: %s" % (source, exc)
        ) from exc
    try:
        try:
            _mount(fs_type, source, options, target)
        except BaseException:
            _detach(target)  # it may have been ended between its mounting and its own end
            raise
        try:
            yield target
        except BaseException:
            try:
                _unmount(target)
            except errors.WriteFailed as exc:
                LOG.error("%(reason)s", {"reason": exc})
            raise
        try:
            _unmount(target)
        except errors.WriteFailed as exc:
            if not is_synced:
                raise
            LOG.warning("%(reason)s", {"reason": exc})
    finally:
        _remove_if_empty(target)


def _mount(fs_type: str, source: str, options: Sequence[str], target: Path) -> None:
    try:
        process.run(
            "mount", "-t", fs_type, "-o", ",".join(options), "--", source, str(target),
            timeout_s=_MOUNT_TIMEOUT_S,
        )  # fmt: skip
    except process.ProgramFailed as exc:
        raise errors.StorageUnavailable(
            "%s cannot be mounted as %s: %s" % (source, fs_type, exc.reason)
        ) from exc


def _unmount(target: Path) -> None:
    try:
        process.run("umount", str(target), timeout_s=None)
    except BaseException as exc:
        # So that no mount is left. That it failed is still told.
        _detach(target)
        if isinstance(exc, process.ProgramFailed):
            raise errors.WriteFailed("%s was not unmounted: %s" % (target, exc.reason)) from exc
        raise


def _detach(target: Path) -> None:
    # without umount's helper, which for davfs2 would wait for an upload
    with contextlib.suppress(process.ProgramFailed):
        process.run("umount", "--internal-only", "--lazy", str(target))


def _remove_if_empty(target: Path) -> None:
    # rmdir and never rmtree: were it still mounted, rmtree would empty the storage.
    try:
        os.rmdir(target)
    except OSError as exc:
        LOG.warning("%(target)s is left behind: %(reason)s", {"target": target, "reason": exc})
