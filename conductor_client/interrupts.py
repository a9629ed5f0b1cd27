# SPDX-License-Identifier: Apache-2.0
"""What Ctrl-C does to the command: the first one only says what goes on, the second one ends it."""

import signal
import sys
from collections.abc import Mapping
from typing import Any, Self

from conductor_client.ramdisk_step import CAPTURED
from snapshot_core.process import printable
from snapshot_core.progress import OnProgress, Progress

# What to say in a phase, and else; "{phase}" in it stands for the phase.
Texts = Mapping[str, str]
_CHECK, _ELSE = "check", ""
_NOTHING_YET = "Nothing was changed yet. Ctrl-C again ends this command."


def texts_of_snapshot(node: str, image_name: str | None) -> Texts:
    """Return what to say while a snapshot is taken.

    :param image_name: that of the captured image in the storage; None: the conductor takes the
        snapshot.
    """
    abort = "openstack baremetal node abort " + node
    resume = "openstack baremetal node snapshot %s --image IMAGE --resume %s" % (node, image_name)
    goes_on = (
        "this command then cleans up. Ctrl-C again ends this command alone: the node goes on and "
        "comes back, but not if it was off before, and then: " + resume
        if image_name
        else "the conductor then cleans up. Ctrl-C again ends this command alone: the conductor "
        "goes on, uploads the image and brings the node back, but not to be off if it was off "
        "before"
    )
    return {
        _CHECK: _NOTHING_YET,
        "shut down": "The instance of %s is being shut down, and no snapshot runs yet. Ctrl-C "
        "again ends this command, once it has powered the instance on again." % node,
        CAPTURED: "The disk of %s is captured, and its image is being uploaded ({phase}); the node "
        "comes back by itself, but not to be off if it was off before. Ctrl-C again ends this "
        "command alone, and then: %s" % (node, resume),
        "return": "The snapshot of %s is over, and its instance is being brought back. Ctrl-C "
        "again ends this command alone: then look after the instance, and if the node stays in a "
        "failed state: %s" % (node, abort),
        _ELSE: "The snapshot of %s goes on ({phase}). To abort it: %s; %s" % (node, abort, goes_on),
    }


def texts_of_resume(node: str, *, by_conductor: bool) -> Texts:
    """Return what to say while a captured image is uploaded."""
    if not by_conductor:
        return {
            _ELSE: "The upload goes on ({phase}). Ctrl-C again ends it, and the captured image "
            "stays in the storage, for another --resume."
        }
    return {
        _CHECK: _NOTHING_YET,
        _ELSE: "The conductor uploads ({phase}); an abort would also cut the power of %s. Ctrl-C "
        "again ends this command alone, and the conductor goes on." % node,
    }


class Interrupts:
    """Takes the first Ctrl-C, while the ``with`` lasts; it is to be called with the progress.

    :param texts: if there is none for a phase, that of :data:`.CAPTURED` is said from there on.
    :param on_progress: is told the progress.
    """

    def __init__(self, texts: Texts, on_progress: OnProgress) -> None:
        self._texts = texts
        self._on_progress = on_progress
        self._before: Any = None
        self._phase = _CHECK
        self._otherwise = _ELSE

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._explain)
        return self

    def __exit__(self, *_exc: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def __call__(self, progress: Progress) -> None:
        """Take the progress."""
        self._phase = progress.phase
        if progress.phase == CAPTURED:
            self._otherwise = CAPTURED
        self._on_progress(progress)

    def _explain(self, _signum: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        text = self._texts.get(self._phase) or self._texts[self._otherwise]
        print("\n" + printable(text.replace("{phase}", self._phase)), file=sys.stderr, flush=True)
