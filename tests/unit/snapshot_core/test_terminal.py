# SPDX-License-Identifier: Apache-2.0
"""What a command shows: one result or one line of error, the exit code, and plain progress."""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapshot_core import errors, terminal
from snapshot_core.progress import Progress


def _fail(error: BaseException) -> Any:
    def action() -> dict[str, Any]:
        raise error

    return action


def _run(action: Any, *, as_json: bool) -> int:
    return terminal.run("program", action, lambda result: "it is %(it)s" % result, as_json=as_json)


def test_a_result_is_shown_to_people_and_the_exit_code_is_0(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(lambda: {"it": "done\x1b[2J"}, as_json=False) == 0
    assert capsys.readouterr() == ("it is done?[2J\n", "")


def test_with_json_a_result_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(lambda: {"it": "dön\x1be\n"}, as_json=True) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"it": "dön\x1be\n"}, "")
    assert out.count("\n") == 1 and "\x1b" not in out


HOSTILE = "line one\nline\ttwo\x1b]0;title\x07 \x9b2J end\r\n"


def test_an_error_is_one_line_without_control_characters_and_the_exit_code_is_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(_fail(errors.WriteFailed(HOSTILE)), as_json=False) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("program: WriteFailed: line one line")
    assert err.endswith(" end?\n") or err.endswith(" end\n")
    assert err.removesuffix("\n").isprintable()


def test_with_json_an_error_is_one_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(_fail(errors.StorageUnavailable(HOSTILE)), as_json=True) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"type": "StorageUnavailable", "message": HOSTILE}}
    assert out.count("\n") == 1
    assert err.startswith("program: StorageUnavailable: ")


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_is_one_line_and_the_exit_code_is_130(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    assert _run(_fail(KeyboardInterrupt()), as_json=as_json) == 130
    err = capsys.readouterr().err
    assert err.startswith("program: interrupted")
    assert err.count("\n") == 1


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP], ids=["stop", "lost connection"])
def end(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def test_a_stop_and_a_lost_connection_clean_up_as_an_interrupt_does(end: signal.Signals) -> None:
    cleaned: list[str] = []
    signal.signal(end, before := lambda *_: None)

    def action() -> dict[str, Any]:
        try:
            os.kill(os.getpid(), end)
            signal.pause()
        finally:
            # Once more, as a shell and the kernel both tell of a connection that is lost.
            os.kill(os.getpid(), end)
            cleaned.append("up")
        return {}

    assert _run(action, as_json=False) == 130
    assert cleaned == ["up"]
    assert signal.getsignal(end) == before


def test_what_is_ignored_from_the_beginning_goes_on_being_ignored(end: signal.Signals) -> None:
    signal.signal(end, signal.SIG_IGN)

    def action() -> dict[str, Any]:
        os.kill(os.getpid(), end)
        return {"it": "done"}

    assert _run(action, as_json=False) == 0
    assert signal.getsignal(end) == signal.SIG_IGN


FULL = "/dev/full"


def test_a_result_that_cannot_be_written_is_told_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(FULL, "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert _run(lambda: {"it": "done"}, as_json=True) == 1
    assert "program: done, but the result cannot be written: " in capsys.readouterr().err


def test_what_the_terminal_cannot_show_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert _run(lambda: {"it": "░▒▓█"}, as_json=False) == 0
    assert (tmp_path / "out").read_text() == "it is ????\n"


@pytest.mark.parametrize("stream", [FULL, None])
def test_a_terminal_that_is_gone_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    with contextlib.ExitStack() as stack:
        gone = stack.enter_context(open(stream, "w")) if stream else None
        monkeypatch.setattr(sys, "stderr", gone)
        with terminal.ProgressDisplay() as show:
            for done in range(3):
                show(Progress("stream", 3, done, done))
        assert _run(_fail(errors.WriteFailed("full")), as_json=False) == 1


@pytest.mark.parametrize("text", ["0", "-5", "nan", "1e3", "soon", "", "9" * 30])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a number of seconds above 0"):
        terminal.seconds(text)
    assert terminal.seconds("90") == 90


def test_an_error_of_our_own_making_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        _run(_fail(ZeroDivisionError()), as_json=False)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (64 * 1024, "64.0 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (3 * 1024**3 + 200 * 1024**2, "3.20 GiB"),
        (500 * 1024**3, "500 GiB"),
        (2 * 1024**4, "2.00 TiB"),
        (2**63 - 1, "8.00 EiB"),
    ],
)
def test_a_size_is_told_as_people_read_it(size: int, text: str) -> None:
    assert terminal.size_text(size) == text


def _show(*steps: Progress) -> None:
    with terminal.ProgressDisplay() as display:
        for step in steps:
            display(step)


def test_progress_is_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _show(
        Progress("prepare"),
        Progress("stream", 4 * 1024**3, 1024**3, eta_s=90),
        Progress("publish", 10, 10),
    )
    assert capsys.readouterr() == (
        "",
        "prepare\nstream: 1.00 GiB of 4.00 GiB (25 %), 90 s left\npublish: 10 B of 10 B (100 %)\n",
    )


def test_a_phase_gets_a_line_at_its_beginning_and_then_every_five_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 101.0, 104.9, 105.0, 105.1])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    _show(*(Progress("stream", 100, done) for done in (0, 10, 20, 30, 40)))
    assert [line.split("(")[1] for line in capsys.readouterr().err.splitlines()] == [
        "0 %)", "30 %)",
    ]  # fmt: skip


def test_a_hostile_phase_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _show(Progress("\x1b[2Jstream\x07", 2**63 - 1, 2**63 - 1, eta_s=2**63 - 1))
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


def test_on_a_terminal_progress_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _show(Progress("convert", 1024, 0), Progress("convert", 1024, 512), Progress("publish", 4, 4))
    err = capsys.readouterr().err
    assert "convert:  50%" in err
    assert "publish: 100%" in err
    assert err.endswith("\n")
