# SPDX-License-Identifier: Apache-2.0
"""Programs run limited, in the C locale, are stopped, and their failures name them."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from snapshot_core import process

MIB = 1024 * 1024


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _follow(*argv: str, memory: int = process.DEFAULT_MEMORY) -> str:
    pieces: list[str] = []
    process.follow(*argv, on_output=pieces.append, memory=memory)
    return "".join(pieces)


def _run(*argv: str, memory: int = process.DEFAULT_MEMORY) -> str:
    return process.run(*argv, memory=memory)


either_way = pytest.mark.parametrize("run", [_run, _follow])
Run = Callable[..., str]


@either_way
def test_a_program_s_output_is_returned(run: Run) -> None:
    assert run("printf", "%s|", "a b", "$HOME", "*") == "a b|$HOME|*|"


@either_way
def test_a_program_runs_in_the_c_locale_and_finds_what_it_needs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("HOME", "/home/of/somebody")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert run("sh", "-c", "echo $LC_ALL $HOME $PATH") == (
        "C /home/of/somebody %s\n" % os.environ["PATH"]
    )


@either_way
@pytest.mark.parametrize("name", ["http_proxy", "no_proxy", "All_Proxy", "OS_PASSWORD", "A_SECRET"])
def test_a_program_gets_neither_a_proxy_nor_a_secret(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "s3cret.invalid")
    assert "s3cret.invalid" not in run("env")


@either_way
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo noise; echo its reason >&2; exit 3", "its reason"),
        ("printf 'bad\\033[2J\\007 disk\\n' >&2; exit 1", "bad?[2J? disk"),
        ("printf 'bad \\233 byte' >&2; exit 1", None),
        ("exit 3", "exit status 3"),
        ("kill -9 $$", None),
    ],
)
def test_a_failing_program_is_named_with_its_own_printable_reason(
    run: Run, script: str, reason: str | None
) -> None:
    with pytest.raises(process.ProgramFailed) as caught:
        run("sh", "-c", script)
    assert caught.value.program == "sh"
    assert str(caught.value) == "sh failed: %s" % caught.value.reason
    assert caught.value.reason.replace("\n", "").isprintable()
    assert reason in (None, caught.value.reason)


@either_way
def test_of_a_flood_of_words_the_last_are_kept(run: Run) -> None:
    flood = "for i in $(seq 3000); do echo word $i; done >&2; echo the end >&2; exit 1"
    with pytest.raises(process.ProgramFailed, match=r"the end$") as caught:
        run("sh", "-c", flood)
    assert 1000 < len(caught.value.reason) <= 2000


@either_way
def test_a_missing_program_is_named(run: Run) -> None:
    with pytest.raises(process.ProgramFailed, match="no-such-program-of-ours"):
        run("no-such-program-of-ours", "--help")


@either_way
def test_without_prlimit_no_program_is_started(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(process.ProgramFailed, match="prlimit"):
        run("/bin/true")


@either_way
def test_a_program_gets_no_more_memory_than_its_limit(run: Run) -> None:
    hungry = (sys.executable, "-S", "-c", "print(len(bytearray(300 << 20)))")
    assert run(*hungry, memory=600 * MIB) == "%d\n" % (300 * MIB)
    with pytest.raises(process.ProgramFailed, match="MemoryError"):
        run(*hungry, memory=200 * MIB)


_THREADED = """
import ctypes, threading
libc = ctypes.CDLL(None)
all_are_there = threading.Barrier(20)
def work():
    libc.malloc(100)
    all_are_there.wait(20)
threads = [threading.Thread(target=work) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@either_way
def test_the_heaps_of_many_threads_are_within_the_limit(run: Run) -> None:
    run(sys.executable, "-S", "-c", _THREADED)


def test_a_program_that_takes_too_long_fails_and_is_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(process.ProgramFailed, match="timed out after 1 seconds"):
        process.run("sh", "-c", "echo $$ > %s; exec sleep 60" % pid_file, timeout_s=1)
    assert time.monotonic() - began < 10
    pid = int(pid_file.read_text())
    still_runs = _runs(pid)
    if still_runs:
        os.kill(pid, signal.SIGKILL)
    assert not still_runs


def test_follow_hands_output_on_while_the_program_runs(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    wait = "for i in $(seq 200); do [ -e %s ] && exec echo two; sleep 0.05; done; exit 9" % seen
    pieces: list[str] = []

    def see(piece: str) -> None:
        pieces.append(piece)
        seen.touch()

    process.follow("sh", "-c", "echo one; " + wait, on_output=see, memory=process.DEFAULT_MEMORY)
    assert pieces == ["one\n", "two\n"]


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_follow_stops_the_program_when_its_reader_fails(reason: type[BaseException]) -> None:
    pids: list[int] = []

    def fail(piece: str) -> None:
        pids.append(int(piece))
        raise reason

    with pytest.raises(reason):
        process.follow(
            "sh", "-c", "echo $$; exec sleep 60", on_output=fail, memory=process.DEFAULT_MEMORY
        )
    assert len(pids) == 1
    assert not _runs(pids[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text\n", "plain text\n"),
        ("büro 雪 😀", "büro 雪 😀"),
        ("\x1b[31mred\x1b[0m", "?[31mred?[0m"),
        ("\x9b31m", "?31m"),
        ("a\x00b\rc\td\x7fe\x08", "a?b?c?d?e?"),
        # what undecodable bytes become, and what stdout cannot print
        ("\udc9b31m", "?31m"),
    ],
)
def test_printable_keeps_text_and_strips_what_drives_a_terminal(text: str, expected: str) -> None:
    assert process.printable(text) == expected


def test_a_line_that_does_not_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LONGEST_LINE", MIB)
    taken = []
    with pytest.raises(process.ProgramFailed, match="a line that does not end"):
        for line in process.lines("sh", "-c", "echo first; exec tr '\\0' x < /dev/zero"):
            taken.append(line)
    assert taken == ["first"]


def test_a_program_that_prints_for_ever_is_stopped_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(process.ProgramFailed, match=r"it took longer than 0\.5 s"):
        for _line in process.lines("yes", timeout_s=0.5):
            assert time.monotonic() - began < 10
