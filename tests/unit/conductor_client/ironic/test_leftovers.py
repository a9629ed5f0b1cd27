# SPDX-License-Identifier: Apache-2.0
"""What is left of a snapshot goes from the storage, once no agent can write it again."""

from conductor_client import errors
from conductor_client.ironic import leftovers
from conductor_client.ironic.record import STOP_PATIENCE_S, Leftover
from tests.unit.memory_storage import MemoryStorage

NODE = "node"
NOW = 1000
AT_WORK = Leftover("a.qcow2", None)
ENDED = Leftover("a.qcow2", 0)


def test_what_nobody_writes_is_removed_with_all_that_belongs_to_it() -> None:
    objects = {"node/a.qcow2%s" % suffix: b"x" for suffix in ("", ".part", ".json", ".stop")} | {
        "node/b.qcow2": b"of another snapshot"
    }
    assert leftovers.remove(MemoryStorage(objects), NODE, [ENDED], NOW) == {ENDED: None}
    assert objects == {"node/b.qcow2": b"of another snapshot"}


def test_an_agent_is_asked_to_stop_and_then_what_it_left_is_removed() -> None:
    objects = {"node/a.qcow2.part": b"x", "node/a.qcow2.json": b"{}"}
    storage = MemoryStorage(objects)
    [asked] = leftovers.remove(storage, NODE, [AT_WORK], NOW).values()
    assert asked == Leftover("a.qcow2", NOW + STOP_PATIENCE_S)
    assert set(objects) == {"node/a.qcow2.part", "node/a.qcow2.json", "node/a.qcow2.stop"}
    assert leftovers.remove(storage, NODE, [asked], NOW + STOP_PATIENCE_S - 1) == {}
    assert len(objects) == 3
    assert leftovers.remove(storage, NODE, [asked], NOW + STOP_PATIENCE_S) == {asked: None}
    assert objects == {}


def test_an_agent_that_was_not_asked_is_given_its_time_however_late_it_is_asked() -> None:
    objects: dict[str, bytes] = {}
    late = NOW + 10 * STOP_PATIENCE_S
    [asked] = leftovers.remove(MemoryStorage(objects), NODE, [AT_WORK], late).values()
    assert asked == Leftover("a.qcow2", late + STOP_PATIENCE_S)
    assert set(objects) == {"node/a.qcow2.stop"}


def test_what_is_gone_already_is_gone() -> None:
    assert leftovers.remove(MemoryStorage(), NODE, [ENDED], NOW) == {ENDED: None}


class Stubborn(MemoryStorage):
    """Does not let one object go."""

    def remove(self, name: str) -> None:
        if name == "node/stays.qcow2":
            raise errors.WriteFailed("not now")
        super().remove(name)


def test_what_cannot_be_removed_is_left_for_another_time_and_holds_nothing_up() -> None:
    objects = {"node/stays.qcow2": b"x", "node/a.qcow2": b"x"}
    stays = Leftover("stays.qcow2", 0)
    assert leftovers.remove(Stubborn(objects), NODE, [stays, ENDED], NOW) == {ENDED: None}
    assert set(objects) == {"node/stays.qcow2"}
