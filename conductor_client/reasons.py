# SPDX-License-Identifier: Apache-2.0
"""Why a service failed: what Ironic wrote on the node, in words that say what to do."""

import re

from conductor_client import errors
from conductor_client.node import Record

# "Service step deploy.snapshot failed on node <uuid>. DeviceNotFound: no disk ..."
# "The snapshot of node <uuid> failed. DeviceNotFound: no disk ..."
_OURS = re.compile(
    r"(step \S*snapshot failed on node \S+|snapshot of node \S+ failed)"
    r"\. (?P<word>[A-Z][A-Za-z]+): (?P<why>.+)",
    re.DOTALL,
)
_ABORTED = re.compile(r"(service operation|snapshot) was aborted")
_SAYINGS = (
    (
        re.compile(r"does not support this service step"),
        "the ramdisk was built without ipa-snapshot: it does not know the step",
    ),
    (
        re.compile(r"has these unexpected arguments: (?P<names>[\w, ]+)"),
        "the ipa-snapshot in the ramdisk is too old for these arguments: %(names)s",
    ),
    (
        # ironic-python-agent 10.2 and later want the token where an Ironic before 29 does not
        # send it, and their refusal has no list of commands.
        re.compile(r"'commands'\s*$"),
        "this Ironic and the ironic-python-agent in the ramdisk cannot work together: an agent of "
        "10.2 or later needs Ironic 29 or later",
    ),
    (
        re.compile(r"Timeout reached while (servicing|waiting for the ramdisk)"),
        "the ramdisk did not report to Ironic in time: see the machine's console",
    ),
    (_ABORTED, "it was aborted"),
)


def was_aborted(record: Record) -> bool:
    """Tell whether Ironic says that somebody aborted what the node was asked for."""
    return bool(_ABORTED.search(record.last_error or ""))


def why_failed(record: Record) -> errors.SnapshotError:
    """Return the error that the end of a service means.

    An error of the step itself is a :class:`.CommandFailed` with the step's own error word.
    """
    said = record.last_error or ""
    if ours := _OURS.search(said):
        return errors.CommandFailed(ours["word"], ours["why"].strip())
    for pattern, meaning in _SAYINGS:
        if found := pattern.search(said):
            return errors.ServiceFailed(
                "the snapshot of node %s failed: %s (%s)"
                % (record.name, meaning % found.groupdict(), said)
            )
    return errors.ServiceFailed(
        "the service of node %s ended in the state %s without an image: %s"
        % (record.name, record.provision_state, said or _no_reason(record))
    )


def _no_reason(record: Record) -> str:
    if record.last_error is None:
        return "why, Ironic does not show to this account: ask its operator"
    return "Ironic gives no reason"
