# SPDX-License-Identifier: Apache-2.0
"""Break the loopback interface: packets that are lost, a slow wire, and a wire that is cut."""

import contextlib
import subprocess
from collections.abc import Iterator

from tests.lab import namespaces

# Programs for tc's classifier bpf, where a kernel need not have netem. An instruction is "code jt
# jf k", as in linux/filter.h; they return TC_ACT_OK or TC_ACT_SHOT, of linux/pkt_cls.h.
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
_KEEP, _DROP = "6 0 0 0", "6 0 0 2"


def _some(percent: float) -> str:
    threshold = int((1 - percent / 100) * 0xFFFFFFFF)
    return "4,32 0 0 %d,37 1 0 %d,%s,%s" % (_RANDOM, threshold, _KEEP, _DROP)


@contextlib.contextmanager
def dropping(percent: float = 100) -> Iterator[None]:
    """Lose so many of the packets that arrive, by chance; by default all: a cut wire.

    Nobody is told of a packet that is lost: connections stay open, and new ones get no answer.
    """
    if not namespaces.isolated():
        raise RuntimeError("this would be the host's loopback interface: call namespaces.enter()")
    program = _some(percent) if percent < 100 else "1," + _DROP
    _tc("qdisc", "add", "dev", "lo", "clsact")
    try:
        _tc("filter", "add", "dev", "lo", "ingress", "bpf", "direct-action", "bytecode", program)
        yield
    finally:
        _tc("qdisc", "del", "dev", "lo", "clsact")


@contextlib.contextmanager
def slow(rate: str, latency: str) -> Iterator[None]:
    """Let so many bits through a second (``80mbit``); what waits longer (``50ms``) is lost."""
    if not namespaces.isolated():
        raise RuntimeError("this would be the host's loopback interface: call namespaces.enter()")
    _tc("qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", "128kb",
        "latency", latency)  # fmt: skip
    try:
        yield
    finally:
        _tc("qdisc", "del", "dev", "lo", "root")


def _tc(*arguments: str) -> None:
    subprocess.run(["tc", *arguments], check=True)
