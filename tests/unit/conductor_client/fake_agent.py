# SPDX-License-Identifier: Apache-2.0
"""An agent's REST API that answers what the test tells it, for ``AnsweringServer``."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.unit.http_server import Answer, Request

TOKEN = "t0ken"  # no secret of anyone's
ID = "6d4a7d5c"


def as_json(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def running(**progress: Any) -> dict[str, Any]:
    result = {"progress": {"phase": "stream", "bytes_total": 10, "bytes_done": 5, "bytes_sent": 3,
                           **progress}}  # fmt: skip
    return {"id": ID, "command_status": "RUNNING", "command_result": result}


def succeeded(result: object) -> dict[str, Any]:
    return {"id": ID, "command_status": "SUCCEEDED", "command_result": result}


def failed(error: object) -> dict[str, Any]:
    return {"id": ID, "command_status": "FAILED", "command_error": error}


def result_about(image_name: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {
        "image_name": image_name,
        "disk_format": "qcow2",
        "virtual_size": 1024,
        "size": len(data),
        "checksum": {"algorithm": "sha512", "value": hashlib.sha512(data).hexdigest()},
        **more,
    }


class FakeAgent:
    """Knows our command; ``answers`` to the polls are given in order, and the last for ever.

    ``on_start`` is called with the command's parameters and stands for what the machine does.
    """

    def __init__(
        self, *answers: object, on_start: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        self.answers = list(answers)
        self.on_start = on_start
        self.started: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> Answer:
        if request.query != "agent_token=%s" % TOKEN:
            return as_json({"faultcode": "Client", "faultstring": "Token invalid."}, 401)
        if request.method == "POST":
            return self._start(json.loads(request.body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = answer()
        return answer if isinstance(answer, Answer) else as_json(answer)

    def _start(self, command: dict[str, Any]) -> Answer:
        assert command["name"] == "snapshot.stream_image"
        if not command["params"]:
            fault = "InvalidRequest: the storage URL must be a text"
            return as_json({"faultcode": "Client", "faultstring": fault}, 400)
        self.started.append(command["params"])
        answer = self.on_start(command["params"]) if self.on_start else None
        return answer if isinstance(answer, Answer) else as_json(running())
