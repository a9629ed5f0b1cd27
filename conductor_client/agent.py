# SPDX-License-Identifier: Apache-2.0
"""Speak with the agent's REST API: start our command, and ask how it goes.

What the agent answers is checked here, once: behind it stands a machine that a tenant used.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib import parse

import requests
import tenacity
import urllib3
from oslo_log import log

from conductor_client import errors
from conductor_client.deadline import Deadline, obey_deadlines
from snapshot_core.credentials import Credentials, Trust, is_untrusted
from snapshot_core.encryption import PublicKey
from snapshot_core.process import printable
from snapshot_core.progress import Progress
from snapshot_core.session import Session

LOG = log.getLogger(__name__)

COMMAND = "snapshot.stream_image"
_TIMEOUT_S = (15, 60)
_MOST_BYTES = 1024 * 1024
_SHA512 = re.compile(r"[0-9a-f]{128}")


def storage_params(credentials: Credentials | None, trust: Trust) -> dict[str, Any]:
    """Return the parameters of the command with which the agent is let into the storage.

    :raises: InvalidRequest
    """
    params: dict[str, Any] = {"auth": credentials.to_wire()} if credentials else {}
    if trust.insecure:
        params["insecure"] = True
    if trust.cacert is not None:
        try:
            params["cacert"] = Path(trust.cacert).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise errors.InvalidRequest(
                "the CA file %s cannot be read: %s" % (trust.cacert, exc)
            ) from exc
    return params


@dataclass(frozen=True)
class Captured:
    """What the agent says that it stored; sizes in bytes. ``raw`` is its whole result.

    ``lost`` is how much could not be read, and is zeros in the image. The size and the digest are
    those of the image before it was encrypted, if it was.
    """

    image_name: str
    disk_format: str
    virtual_size: int
    size: int
    sha512: str
    lost: int
    encrypted_for: PublicKey | None
    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: object) -> "Captured":
        """Check the result of the agent's command.

        :raises: CommandFailed
        """
        try:
            if not isinstance(raw, Mapping) or raw["checksum"]["algorithm"] != "sha512":
                raise ValueError("no sha512 checksum")
            encryption = raw.get("encryption")
            captured = cls(
                str(raw["image_name"]), raw["disk_format"], raw["virtual_size"], raw["size"],
                raw["checksum"]["value"], raw.get("lost", {}).get("bytes", 0),
                None if encryption is None else PublicKey.from_wire(encryption), raw,
            )  # fmt: skip
            if captured.disk_format not in ("qcow2", "raw"):
                raise ValueError("unknown disk_format")
            for size in (captured.size, captured.virtual_size):
                if type(size) is not int or not 0 < size < 1 << 63:
                    raise ValueError("a size is not a number of bytes")
            if type(captured.lost) is not int or not 0 <= captured.lost <= captured.virtual_size:
                raise ValueError("what was lost is not a number of bytes")
            if not _SHA512.fullmatch(captured.sha512):
                raise ValueError("the checksum is not that of sha512")
        except (
            AttributeError, KeyError, TypeError, ValueError, errors.InvalidRequest
        ) as exc:  # fmt: skip
            raise errors.CommandFailed("an unusable result", str(exc)) from exc
        return captured


@dataclass(frozen=True)
class Status:
    """How the command goes: at most one of the two is set, none at its very beginning."""

    progress: Progress | None = None
    captured: Captured | None = None


class NoAnswer(errors.AgentUnavailable):
    """No answer, this time: asking again may help."""


class Forgotten(errors.AgentUnavailable):
    """The agent was restarted, and does not know the command any more."""


class NotTrusted(errors.AgentUnavailable):
    """The certificate is not one that is expected."""


class Agent:
    """One agent's REST API, for as long as the ``with``.

    :param timeout_s: for connecting, and for each further step, in seconds; an exchange as a whole
        may take as long as both together.
    """

    def __init__(
        self, url: str, token: str, trust: Trust, timeout_s: tuple[float, float] = _TIMEOUT_S
    ) -> None:
        if not _is_agent_url(url):
            raise errors.InvalidRequest(
                "the agent's URL must be http(s)://host:port, without credentials"
            )
        self.url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._session = Session()
        # urllib3 2.2 unpacks all that it has read, however large that becomes.
        self._session.headers["Accept-Encoding"] = "identity"
        obey_deadlines(self._session)
        trust.apply(self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._session.close()

    def check(self) -> None:
        """Make sure that the agent is there, knows the token and the command, and is not busy.

        The command is sent without arguments, which its validator refuses. Only after that may
        credentials be sent: an agent without our extension would write them into its log.

        :raises: AgentUnavailable
        """
        status, answer = self._request("POST", "", json={"name": COMMAND, "params": {}})
        if status != 400 or not _fault(answer).startswith(errors.InvalidRequest.__name__):
            raise self._refusal(status, answer)

    def start(self, params: Mapping[str, Any]) -> str:
        """Start a snapshot and return the command's id.

        Not repeated when it fails: the agent may have started it all the same.

        :raises: AgentUnavailable, InvalidRequest, CommandFailed
        """
        status, answer = self._request("POST", "", json={"name": COMMAND, "params": params})
        if status in (400, 404, 409):
            raise self._refusal(status, answer)
        self._parse_status(answer)
        command_id = answer.get("id")
        if not isinstance(command_id, str) or not command_id:
            raise errors.AgentUnavailable("%s does not answer as an agent" % self.url)
        LOG.info("%(url)s runs %(command)s", {"url": self.url, "command": COMMAND})
        return command_id

    def status(self, command_id: str, patience_s: float) -> Status:
        """Ask how the command goes; an agent that does not answer is asked again.

        :param patience_s: how long it may be silent, in seconds.
        :raises: NoAnswer when it was silent for longer; AgentUnavailable, CommandFailed
        """
        ask = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(NoAnswer),
            stop=tenacity.stop_after_delay(patience_s),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=15),
            before_sleep=tenacity.before_sleep_log(logging.getLogger(__name__), logging.WARNING),
            reraise=True,
        )
        status, answer = ask(self._request, "GET", parse.quote(command_id, safe=""))
        if status == 404:
            raise Forgotten(
                "the agent at %s does not know the command any more: it was restarted, and the "
                "snapshot is lost; take it again" % self.url
            )
        return self._parse_status(answer)

    def _parse_status(self, answer: Mapping[str, Any]) -> Status:
        state, result, error = (
            answer.get(key) for key in ("command_status", "command_result", "command_error")
        )
        if state == "RUNNING":
            progress = result.get("progress") if isinstance(result, Mapping) else None
            return Status(progress=Progress.parse(progress))
        if state == "SUCCEEDED":
            return Status(captured=Captured.parse(result))
        if not isinstance(error, Mapping):
            error = {"details": error or "the state of the command is %r" % (state,)}
        word, details = error.get("type") or "an error", error.get("details") or "no details"
        raise errors.CommandFailed(printable(str(word))[:80], printable(str(details))[:2000])

    def _refusal(self, status: int, answer: Mapping[str, Any]) -> errors.SnapshotError:
        fault = _fault(answer)
        word = errors.InvalidRequest.__name__
        if status == 409:
            return errors.AgentUnavailable(
                "the agent at %s is busy: %s; wait until that is done" % (self.url, fault)
            )
        if fault.startswith(word):
            return errors.InvalidRequest("the agent refuses: %s" % fault.removeprefix(word + ": "))
        return errors.AgentUnavailable(
            "the agent at %s does not know %s (%s): its ramdisk was built without ipa-snapshot"
            % (self.url, COMMAND, fault)
        )

    def _request(self, method: str, command: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        # The agent takes its token in the query and nowhere else, and requests puts the query
        # into its exceptions: so none of them may leave, not even as the cause or the context.
        status, body, failure = self._exchange(method, command, options)
        if failure is not None:
            raise failure
        if status in (401, 403):
            raise errors.AgentUnavailable("the agent at %s refuses the token" % self.url)
        if status not in (200, 202, 400, 404, 409):
            raise NoAnswer("the agent at %s answers %d" % (self.url, status))
        return status, self._parse_body(body)

    def _exchange(
        self, method: str, command: str, options: dict[str, Any]
    ) -> tuple[int, bytes, errors.AgentUnavailable | None]:
        with Deadline(sum(self._timeout_s)) as deadline:
            status, body, failure = self._send(method, command, options)
            # Each exchange opens its own connection, so that the deadline holds for it.
            self._session.close()
        if deadline.is_over and failure is None:
            failure = self._no_answer(TimeoutError())
        return status, body, failure

    def _send(
        self, method: str, command: str, options: dict[str, Any]
    ) -> tuple[int, bytes, errors.AgentUnavailable | None]:
        url = "%s/v1/commands/%s" % (self.url, command)
        try:
            with self._session.request(
                method, url, params={"agent_token": self._token}, timeout=self._timeout_s,
                allow_redirects=False, stream=True, **options,
            ) as answer:  # fmt: skip
                body = answer.raw.read(_MOST_BYTES + 1, decode_content=False)
                # an end that is none is only told by the read after it
                answer.raw.read(1, decode_content=False)
                return answer.status_code, body, None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            return 0, b"", self._no_answer(exc)

    def _no_answer(self, exc: BaseException) -> errors.AgentUnavailable:
        if is_untrusted(exc):
            return NotTrusted(
                "the certificate of the agent at %s is not trusted: pass its authority as the "
                "agent's CA file" % self.url
            )
        return NoAnswer("the agent at %s does not answer (%s)" % (self.url, type(exc).__name__))

    def _parse_body(self, body: bytes) -> Mapping[str, Any]:
        if len(body) > _MOST_BYTES:
            raise errors.AgentUnavailable("the answer of the agent at %s is too long" % self.url)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise errors.AgentUnavailable("%s does not answer as an agent" % self.url) from exc
        if not isinstance(answer, Mapping):
            raise errors.AgentUnavailable("%s does not answer as an agent" % self.url)
        return answer


def _is_agent_url(url: str) -> bool:
    try:
        parts = parse.urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:
        return False


def _fault(answer: Mapping[str, Any]) -> str:
    return printable(str(answer.get("faultstring") or "no reason given"))[:2000]


class _HideToken(logging.Filter):
    """Hides the agent's token from urllib3's log of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "agent_token=" in message:
            record.msg = re.sub(r"(agent_token=)[^\s&\"']+", r"\1<hidden>", message)
            record.args = ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_HideToken())
