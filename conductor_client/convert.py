# SPDX-License-Identifier: Apache-2.0
"""Turn the raw image that the writer ``dd`` stored into a qcow2, on this machine."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conductor_client import errors
from conductor_client.verified import VerifiedImage
from snapshot_core import process, qemu_img
from snapshot_core.progress import Meter
from snapshot_core.storage.directory import DirectoryStorage

_BLOCK = 64 * 1024
_ZERO = bytes(_BLOCK)
_NAME = "image.qcow2"


@contextlib.contextmanager
def converted(raw: VerifiedImage, work_dir: str | None, meter: Meter) -> Iterator[VerifiedImage]:
    """Yield the qcow2 of a ``raw`` image; it lives in ``work_dir`` until the ``with`` ends.

    The raw image is fetched and verified first: a qcow2 of wrong bytes would have a right digest.

    :raises: UploadFailed when there is no room, StorageMismatch, StorageUnavailable
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ipa-snapshot-", dir=work_dir)
            )
            size, sha512 = _convert(raw, Path(directory), meter)
        except (process.ProgramFailed, OSError) as exc:
            raise errors.UploadFailed(
                "converting the raw image in %s failed: %s; it needs room for what is not zero "
                "on the disk, twice: choose another work directory, or another writer than dd"
                % (work_dir or tempfile.gettempdir(), exc)
            ) from exc
        storage = DirectoryStorage(Path(directory), directory)
        yield VerifiedImage(storage, _NAME, size, sha512, meter=meter)


def _convert(raw: VerifiedImage, directory: Path, meter: Meter) -> tuple[int, str]:
    source, target = directory / "image.raw", directory / _NAME
    meter.phase("fetch", raw.size)
    _fetch_sparse(raw, source)
    meter.phase("convert", raw.size)
    qemu_img.convert(
        source, target, "qcow2", "zstd", lambda fraction: meter.done_to(int(raw.size * fraction))
    )
    source.unlink()
    with target.open("rb") as file:
        return target.stat().st_size, hashlib.file_digest(file, "sha512").hexdigest()


def _fetch_sparse(raw: VerifiedImage, path: Path) -> None:
    with path.open("wb") as file:
        for chunk in raw:
            for at in range(0, len(chunk), _BLOCK):
                block = chunk[at : at + _BLOCK]
                if _ZERO.startswith(block):
                    file.seek(len(block), os.SEEK_CUR)
                else:
                    file.write(block)
        file.truncate(raw.size)
