# SPDX-License-Identifier: Apache-2.0
"""Programs whose output is long, or that stay: they are read line by line, and never left."""

import itertools
import os
import time
from pathlib import Path

import pytest

from snapshot_core import process


def test_lines_come_whole_whatever_pieces_they_come_in() -> None:
    assert list(process.lines("printf", "a\\n\\nb")) == ["a", "", "b"]
    assert list(process.lines("true")) == []
    assert list(process.lines("seq", "50000")) == [str(number) for number in range(1, 50001)]


def test_a_program_that_fails_is_told_after_its_lines() -> None:
    lines = process.lines("sh", "-c", "echo one; echo wrong >&2; exit 3")
    assert next(lines) == "one"
    with pytest.raises(process.ProgramFailed, match="sh failed: wrong"):
        next(lines)
    with pytest.raises(process.ProgramFailed):
        list(process.lines("/no/such/program"))


def test_a_program_that_should_be_silent_fails_by_what_it_says() -> None:
    command = ("sh", "-c", "echo one; echo a checksum is wrong >&2")
    assert list(process.lines(*command)) == ["one"]
    with pytest.raises(process.ProgramFailed, match="a checksum is wrong"):
        list(process.lines(*command, silent=True))
    assert list(process.lines("echo", "one", silent=True)) == ["one"]


def test_a_program_that_takes_too_long_is_stopped() -> None:
    began = time.monotonic()
    with pytest.raises(process.ProgramFailed, match=r"took longer than 0\.2 s"):
        list(process.lines("sleep", "60", timeout_s=0.2))
    assert time.monotonic() - began < 30


def test_a_program_whose_rest_nobody_wants_is_stopped() -> None:
    lines = process.lines("yes")
    assert list(itertools.islice(lines, 3)) == ["y", "y", "y"]
    lines.close()  # type: ignore[attr-defined]


def test_a_program_in_the_background_ends_with_its_block() -> None:
    with process.background("cat") as pid:
        assert Path("/proc/%d" % pid).exists()
    assert not Path("/proc/%d" % pid).exists()


def test_one_that_ends_before_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with process.background("sleep", "60"):
        pass
    assert "ended" not in caplog.text
    with process.background("sh", "-c", "exit 3") as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert "'exit 3') ended before its time, with 3" in caplog.text
