# SPDX-License-Identifier: Apache-2.0
"""Requests that wait in a queue of a test's own, and threads beside the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flagtriton.protocol.settings import QueueLimits
from flagtriton_server.backend import queue as queue_module
from flagtriton_server.backend import scheduler
from flagtriton_server.backend.queue import QueuedRequest, WorkQueue

__all__ = ["NO_LIMITS", "TURN", "Answers", "ended", "in_thread", "job", "queue", "settable_clock", "waits"]

NO_LIMITS = QueueLimits(10**6, 10**6)

TURN = 10
"""Tokens of one turn."""


class Answers(list[tuple[Any, Any]]):
    """What requests were answered with, each with its work, in the order the answers were sent."""

    def to(self, work: Any) -> Callable[[Any], None]:
        """Return what takes a request's answer."""
        return lambda answer: self.append((work, answer))


def job(work: Any, tokens: int = 1, answers: Answers | None = None, **more: Any) -> QueuedRequest[Any]:
    """Return a request whose answer is kept if `answers` are given."""
    return QueuedRequest(work, tokens, (Answers() if answers is None else answers).to(work), **more)


def queue(*jobs: QueuedRequest[Any], limits: QueueLimits = NO_LIMITS) -> WorkQueue[Any]:
    """Return one in which these wait."""
    made: WorkQueue[Any] = WorkQueue(limits, TURN)
    for each in jobs:
        made.put(each)
    return made


def settable_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace the clock of queues and workers; return one whose `now`, in seconds, stands still unless it is set."""
    clock = SimpleNamespace(now=1000.0)
    for module in (queue_module, scheduler):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def in_thread(function: Callable[..., Any], *arguments: Any) -> tuple[threading.Thread, list[Any]]:
    """Start a function beside the test; return its thread, and a list that gets what it returns."""
    returned: list[Any] = []
    thread = threading.Thread(target=lambda: returned.append(function(*arguments)), daemon=True)
    thread.start()
    return thread, returned


def waits(thread: threading.Thread) -> bool:
    """Return whether a thread goes on for a moment."""
    thread.join(timeout=0.03)
    return thread.is_alive()


def ended(thread: threading.Thread) -> bool:
    """Return whether a thread ends."""
    thread.join(timeout=30)
    return not thread.is_alive()
