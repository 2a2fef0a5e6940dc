# SPDX-License-Identifier: Apache-2.0
"""`serve` without anything that it starts: a launcher of servers without a process, and a supervisor that is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.serve import session as serving
from flagtriton_tools.serve.health import Health
from flagtriton_tools.serve.session import WatchOptions, serve
from flagtriton_tools.tritonserver.options import ServeOptions
from tests.support.fake_triton import FakeAdmin, FakeClock, FakeServer

__all__ = ["FakeSupervisor", "Run"]


class FakeLauncher:
    """Starts `FakeServer`s; an exception in place of one is raised."""

    def __init__(self, options: ServeOptions, admin: FakeAdmin, report: Any, servers: list[Any]) -> None:
        self.options, self.admin, self.report = options, admin, report
        self.servers = servers
        self.begun: list[tuple[list[str], bool]] = []

    @contextmanager
    def started(self, names: Sequence[str] = (), *, again: bool = False) -> Iterator[FakeServer]:
        self.begun.append((list(names), again))
        server = self.servers.pop(0)
        if isinstance(server, Exception):
            raise server
        yield server


class FakeSupervisor:
    """Does as it is told: ends with an exit code, or is interrupted."""

    ends: list[Any]
    names = ("m3", "plain")
    ensembles = ("m3", "m3_score", "plain")
    healths: list[dict[str, Any]]
    clock: FakeClock

    def __init__(self, server: FakeServer, admin: Any, health: Health, report: Any, every_s: float) -> None:
        self.health, self.every_s = health, every_s

    def run(self) -> int:
        self.healths.append({**self.health.to_json(), "every_s": self.every_s})
        end = self.ends.pop(0)
        if isinstance(end, BaseException):
            raise end
        code, seconds = end
        self.clock.now += seconds
        return code


class Run:
    """One call of `serve`.

    Attributes:
        lines: what it reported.
        healths: what probes were told when each server was ready.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, admin: FakeAdmin, clock: FakeClock) -> None:
        self.options = ServeOptions(Path("repo"), log_file=Path("server.log"))
        self.admin, self.clock = admin, clock
        self.lines: list[str] = []
        self.healths: list[dict[str, Any]] = []
        self._monkeypatch = monkeypatch

    def __call__(self, *ends: Any, servers: list[Any] | None = None, **watch: Any) -> int:
        """Serve, every supervisor ending as said: with an exception, or a code after so many seconds."""
        self.servers = servers or [FakeServer(options=self.options) for _ in ends]
        self.launcher = FakeLauncher(self.options, self.admin, self.lines.append, list(self.servers))

        @contextmanager
        def prepared(options: ServeOptions, report: Any) -> Iterator[FakeLauncher]:
            assert (options, report) == (self.options, self.lines.append)
            yield self.launcher

        self._monkeypatch.setattr(serving, "prepared", prepared)
        self._monkeypatch.setattr(FakeSupervisor, "ends", list(ends), raising=False)
        self._monkeypatch.setattr(FakeSupervisor, "healths", self.healths, raising=False)
        self._monkeypatch.setattr(FakeSupervisor, "clock", self.clock, raising=False)
        self._monkeypatch.setattr(serving, "Supervisor", FakeSupervisor)
        return serve(self.options, WatchOptions(**watch), self.lines.append)
