# SPDX-License-Identifier: Apache-2.0
"""Nothing is mounted in a namespace before what is mounted there stays there."""

import os
import sys
from collections.abc import Callable

import pytest

from ipa_snapshot.devices.namespace import open_namespace
from snapshot_core import process

# as util-linux's: it forks, and only then makes the mounts private and becomes the program
SLOW = """exec %s -S -c '
import os, time
child = os.fork()
if child == 0:
    time.sleep(0.5)
    open("%s", "w").close()
    os.execvp("cat", ["cat"])
os.waitpid(child, 0)
'
"""


def test_the_namespace_is_entered_only_when_its_mounts_are_private(
    put_on_path: Callable[[str, str], None], tmp_path: object
) -> None:
    private = "%s/private" % tmp_path
    put_on_path("unshare", SLOW % (sys.executable, private))
    put_on_path("nsenter", "[ -e %s ] && echo private >&2 || echo shared >&2; exit 1" % private)
    with (
        pytest.raises(process.ProgramFailed, match="nsenter failed: private"),
        open_namespace(1 << 20),
    ):
        pytest.fail("there is one")


def test_what_is_mounted_in_a_namespace_is_not_mounted_here() -> None:
    with open_namespace(1 << 20) as namespace:
        assert not os.path.ismount(namespace.directory)
        assert os.statvfs(namespace.root).f_blocks * 4096 == 1 << 20
