# SPDX-License-Identifier: Apache-2.0
"""Let a thread make the blocks that another sends: neither waits for the other's every block."""

import contextlib
import queue
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def made_ahead(blocks: Iterator[bytes], most: int) -> Iterator[Iterator[bytes]]:
    """Run ``blocks`` in a thread, at most ``most`` blocks ahead, and yield an iterator over them.

    What ``blocks`` raises, the iterator raises. When the ``with`` ends, the thread has ended.
    """
    made: queue.Queue[bytes | BaseException | None] = queue.Queue(most)
    unwanted = threading.Event()

    def make() -> None:
        end: BaseException | None = None
        try:
            for block in blocks:
                made.put(block)
                if unwanted.is_set():
                    return
        except BaseException as exc:  # noqa: BLE001 - a thread ends here: the other must know why
            end = exc
        made.put(end)

    thread = threading.Thread(target=make, name="snapshot-stream", daemon=True)
    thread.start()
    try:
        yield _taken(made)
    finally:
        unwanted.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.05)


def _taken(made: "queue.Queue[bytes | BaseException | None]") -> Iterator[bytes]:
    while (block := made.get()) is not None:
        if isinstance(block, BaseException):
            raise block
        yield block
