# SPDX-License-Identifier: Apache-2.0
"""A supervisor and what it watches: neither server nor processes, and a clock that stands still."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from flagtriton_tools.serve import supervision
from flagtriton_tools.serve.health import READY, Health
from flagtriton_tools.serve.supervision import Supervisor
from flagtriton_tools.tritonserver.admin import Reply
from tests.support.fake_triton import FakeAdmin, FakeClock, FakeServer, FakeTriton, InlinePool, deployment

__all__ = ["OK", "World", "refused"]

OK = Reply(200, b"{}")


class World:
    """A server of `plain`, of one ensemble, and `m3`, of two, and who watches it.

    Attributes:
        lines: what is reported.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.triton = FakeTriton().serve(deployment("plain"), deployment("m3", "encoder-only-m3"))
        self.server = FakeServer()
        self.health = Health()
        self.health.server_is(READY)
        self.lines: list[str] = []
        self.pool = InlinePool()
        monkeypatch.setattr(supervision, "time", self.clock)
        monkeypatch.setattr(supervision, "live_stubs", self._live_stubs)
        monkeypatch.setattr(supervision, "ThreadPoolExecutor", lambda *_: self.pool)
        self.admin = FakeAdmin(triton=self.triton)
        self.supervisor = Supervisor(self.server, self.admin, self.health, self.lines.append)  # type: ignore[arg-type]

    def run(self, seconds: float) -> int:
        """Watch for so many seconds."""
        self.clock.at(self.clock.now - 1000 + seconds, self.server.end)
        return self.supervisor.run()

    def at(self, seconds: float, what: Callable[[], object]) -> None:
        self.clock.at(seconds, what)

    def state(self, name: str) -> tuple[str, str]:
        told = self.health.to_json()["deployments"][name]
        return told["state"], told["reason"]

    def recoveries(self, name: str) -> int:
        return self.health.to_json()["deployments"][name]["recoveries"]

    def _live_stubs(self, server_pid: int) -> Counter[tuple[str, str]]:
        assert server_pid == self.server.process.pid
        return self.triton.live_stubs()


def refused(error: str, status: int = 500) -> Reply:
    return Reply(status, json.dumps({"error": error}).encode())
