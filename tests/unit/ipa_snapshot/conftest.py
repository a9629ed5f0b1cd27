# SPDX-License-Identifier: Apache-2.0
"""What several unit tests of the machine's side need."""

from collections.abc import Callable
from types import SimpleNamespace

import psutil
import pytest


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that lets this machine have so many bytes available."""

    def pretend(available: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))

    return pretend
