# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, never for a time: the one helper that all tests share."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

from flagtriton.protocol.metrics import LAST_SEEN
from flagtriton_tools.observe.scrape import Scrape, scrape

__all__ = ["listens", "told_scrape", "wait_for"]

T = TypeVar("T")

_TELLS_EVERY_S = 1.0
_GONE_S = 10.0


def wait_for(condition: Callable[[], T], timeout_s: float = 60.0, what: Callable[[], object] = lambda: "") -> T:
    """Return what a condition gives once that is true.

    Args:
        condition: asked again and again.
        timeout_s: seconds.
        what: what to say if it does not come true.

    Raises:
        AssertionError: it does not.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition did not come true in time: {what()}"
        time.sleep(0.05)
    return found


def listens(port: int) -> bool:
    """Return whether something of this machine accepts connections on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def told_scrape(metrics_url: str) -> Scrape:
    """Return a server's metrics once every step has told what it had done when this was called.

    Steps tell their numbers once a second, and when they did; what was told a second after the call began after it.
    """
    began = time.time()

    def told() -> Scrape | None:
        seen = scrape(metrics_url)
        moments = [moment for _, moment in seen.series(LAST_SEEN.name) if moment > began - _GONE_S]
        return seen if all(moment >= began + _TELLS_EVERY_S for moment in moments) else None

    found = wait_for(told)
    assert found is not None
    return found
