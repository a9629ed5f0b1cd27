# SPDX-License-Identifier: Apache-2.0
"""Which releases of Ironic and of its agent the laboratory runs: the newest pair, or the oldest."""

import dataclasses
import os
import pathlib
import sys

_REPOSITORY = pathlib.Path(__file__).parent.parent.parent
VARIABLE = "LAB_RELEASES"

# Else an agent finds its node only while that is deployed or cleaned.
_LOOKUP_IN_SERVICES = """\
[api]
restrict_lookup = false
"""


@dataclasses.dataclass(frozen=True)
class Releases:
    """A pair that works together, and where tools/setup.sh installs it.

    :param ironic: the version of Ironic; ``agent``: that of ironic-python-agent.
    :param api: the newest version of the API that this Ironic speaks.
    :param setup: what tools/setup.sh calls it.
    :param ironic_config: sections of ironic.conf that this pair cannot do without.
    :param recovers: the node of a service that failed can be made active by an abort, and it or
        that of a service that waits can be deleted. Without that, an abort ends in
        ``service failed``, and only another service leads out of it.
    :param times_out: a ramdisk that is not heard of fails the service.
    :param boots_if_needed: a service whose steps need no ramdisk boots none.
    """

    ironic: str
    agent: str
    api: str
    ironic_venv: pathlib.Path
    agent_venv: pathlib.Path
    setup: str
    ironic_config: str = ""
    recovers: bool = True
    times_out: bool = True
    boots_if_needed: bool = True


_PAIRS = {
    "newest": Releases(
        ironic="39.0.0",
        agent="13.0.0",
        api="1.115",
        ironic_venv=_REPOSITORY / ".venv-ironic",
        agent_venv=pathlib.Path(sys.prefix),
        setup="ironic",
    ),
    "oldest": Releases(
        ironic="26.1.1",
        agent="9.7.0",
        api="1.93",
        ironic_venv=_REPOSITORY / ".venv-ironic-oldest",
        agent_venv=_REPOSITORY / ".venv-agent-oldest",
        setup="oldest",
        ironic_config=_LOOKUP_IN_SERVICES,
        recovers=False,
        times_out=False,
        boots_if_needed=False,
    ),
}


def _selected() -> Releases:
    name = os.environ.get(VARIABLE, "newest")
    if name not in _PAIRS:
        raise RuntimeError(f"{VARIABLE} is {name!r}, expected one of {', '.join(_PAIRS)}")
    return _PAIRS[name]


RELEASES = _selected()
