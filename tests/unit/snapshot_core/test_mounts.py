# SPDX-License-Identifier: Apache-2.0
"""A mount is private, ends with its ``with`` whatever happens, and its failures are told.

That nothing stays is checked by the fixture ``temporary`` after each test.
"""

import os
from pathlib import Path

import pytest

from snapshot_core import errors, mounts

SMALL = ["size=1m"]


def test_a_mount_lasts_as_long_as_the_with(temporary: Path) -> None:
    with mounts.mounted("tmpfs", "tmpfs", SMALL) as where:
        assert os.path.ismount(where)
        assert where.parent == temporary
        (where / "file").write_text("here")
    assert not where.exists()


def test_the_options_are_used() -> None:
    with mounts.mounted("tmpfs", "tmpfs", ["size=64k", "ro", "noexec"]) as where:
        found = os.statvfs(where)
        assert found.f_blocks * found.f_frsize == 64 * 1024
        assert found.f_flag & os.ST_RDONLY
        assert found.f_flag & os.ST_NOEXEC


def test_what_is_mounted_is_never_taken_for_an_option() -> None:
    with mounts.mounted("tmpfs", "-osize=64k", SMALL) as where:
        found = os.statvfs(where)
        assert found.f_blocks * found.f_frsize == 1024 * 1024


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, errors.WriteFailed])
def test_a_failure_inside_unmounts_too_and_is_the_one_that_is_told(
    failure: type[BaseException],
) -> None:
    with pytest.raises(failure, match="inside"), mounts.mounted("tmpfs", "tmpfs", SMALL) as where:
        raise failure("inside")
    assert not where.exists()


@pytest.mark.parametrize(
    ("fs_type", "source", "options", "reason"),
    [
        ("nosuchfs", "none", ["rw"], "does not exist"),
        ("tmpfs", "tmpfs", ["nosuchoption"], "tmpfs"),
        ("tmpfs", "tmpfs", ["size=nonsense"], "tmpfs"),
        ("ext4", "/dev/null", ["ro"], "/dev/null"),
    ],
)
def test_what_cannot_be_mounted_is_told_with_mount_s_reason(
    fs_type: str, source: str, options: list[str], reason: str
) -> None:
    with (
        pytest.raises(errors.StorageUnavailable) as caught,
        mounts.mounted(fs_type, source, options),
    ):
        pytest.fail("it was mounted")
    assert str(caught.value).startswith("%s cannot be mounted as %s: " % (source, fs_type))
    assert reason in str(caught.value)


def test_a_failed_unmount_fails_the_whole_and_still_leaves_no_mount() -> None:
    with (
        pytest.raises(errors.WriteFailed, match=r"was not unmounted: .*busy"),
        mounts.mounted("tmpfs", "tmpfs", SMALL) as where,
    ):
        held = os.open(where / "held", os.O_CREAT | os.O_RDWR)
    os.close(held)
    assert not where.exists()


def test_a_failed_unmount_of_what_is_synced_is_a_warning_that_says_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mounts.mounted("tmpfs", "tmpfs", SMALL, is_synced=True) as where:
        held = os.open(where / "held", os.O_CREAT | os.O_RDWR)
    os.close(held)
    assert not where.exists()
    assert "%s was not unmounted: " % where in caplog.text


def test_when_both_fail_the_first_failure_is_told() -> None:
    with (
        pytest.raises(RuntimeError, match="inside"),
        mounts.mounted("tmpfs", "tmpfs", SMALL) as where,
    ):
        held = os.open(where / "held", os.O_CREAT | os.O_RDWR)
        raise RuntimeError("inside")
    os.close(held)
    assert not where.exists()
