# SPDX-License-Identifier: Apache-2.0
"""The agents of nodes, as Ironic knows them."""

from ironic.common import exception
from ironic.conf import CONF
from ironic.drivers.modules import agent_client
from ironic.objects import Node
from oslo_log import log

from conductor_client import errors
from conductor_client.agent import Agent, NoAnswer, NotTrusted, Status
from conductor_client.ironic.clocks import Clocks
from conductor_client.ironic.record import Record
from snapshot_core.credentials import Trust

LOG = log.getLogger(__name__)

# An agent under full load still answers; one that is silent for this long is gone.
_PATIENCE_S = 300
# All nodes are asked one after the other: those that are silent, or slow on purpose, are not to
# hold up the others for longer than both together.
_TIMEOUT_S = (5, 15)
# The certificate of an agent is at the conductor that had the node before, or that of an earlier
# ramdisk is here, until the next heartbeat.
_PASSING = (NoAnswer, NotTrusted)


class SnapshotAgentClient(agent_client.AgentClient):
    """Ironic's client, for what it knows of a node's agent: where it is, and how it is trusted.

    The command itself goes through :class:`.Agent`. Ironic 39 would write the request, with the
    storage's credentials in it, into its log and the node's last error when the answer is no JSON,
    would send it again when no answer comes, and reads answers of any size.
    """

    def agent(self, node: Node) -> Agent:
        """Return the node's agent.

        :raises: AgentUnavailable
        """
        known = node.driver_internal_info
        url, token = known.get("agent_url"), known.get("agent_secret_token")
        if not url or not token:
            raise errors.AgentUnavailable(
                "the agent of node %s has not reported, or has no token" % node.uuid
            )
        try:
            verify = self._get_verify(node)
        except exception.InvalidParameterValue as exc:
            raise NoAnswer(str(exc)) from exc
        trust = Trust(insecure=not verify) if isinstance(verify, bool) else Trust(verify)
        return Agent(url, token, trust, _TIMEOUT_S)


class Listener:
    """Asks agents, and knows for how long each of them is silent.

    :param timeout_option: the option of Ironic's section ``[conductor]`` that is its own patience.
    """

    def __init__(self, timeout_option: str) -> None:
        self._timeout_option = timeout_option
        self._silent = Clocks()

    def ask(self, node: Node, record: Record) -> Status:
        """Return how the record's command goes; an agent that is silent has nothing to tell.

        :raises: AgentUnavailable when it was silent for too long, or never can tell; CommandFailed
        """
        try:
            with SnapshotAgentClient().agent(node) as agent:
                status = agent.status(str(record.command_id), patience_s=0)
        except _PASSING as exc:
            self._bear(node, record, exc)
            return Status()
        self.forget(record.generation)
        return status

    def find(self, node: Node, record: Record) -> Agent | None:
        """Return the node's agent, which knows our command; None if it is silent.

        :raises: AgentUnavailable when it was silent for too long, or is no agent of ours
        """
        try:
            agent = SnapshotAgentClient().agent(node)
            # Before any credentials are sent.
            agent.check()
        except _PASSING as exc:
            self._bear(node, record, exc)
            return None
        self.forget(record.generation)
        return agent

    def forget(self, generation: str) -> None:
        """Forget how long the agent of a snapshot was silent."""
        self._silent.stop(generation)

    def _bear(self, node: Node, record: Record, error: errors.AgentUnavailable) -> None:
        if self._silent.elapsed_s(record.generation) > self._patience_s():
            raise error
        LOG.warning("Node %(node)s: %(why)s", {"node": node.uuid, "why": error})

    def _patience_s(self) -> float:
        # Before Ironic's own patience ends: its way to fail a service leaves the instance down, and
        # tells less. Ironic 26.1 knows no such option, and its patience does not end.
        callback_timeout: int = getattr(CONF.conductor, self._timeout_option, 0)
        return min(_PATIENCE_S, callback_timeout / 2) if callback_timeout else _PATIENCE_S
