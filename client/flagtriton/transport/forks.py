# SPDX-License-Identifier: Apache-2.0
"""Fork notifications for objects that hold connections and locks. Knows neither gRPC nor HTTP.

A child of `os.fork` inherits its parent's objects but none of its threads, and must not use its connections. Programs
that fork so are gunicorn's `--preload`, Celery's prefork pool, and the workers of a torch DataLoader.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import ref

__all__ = ["notify_on_fork"]


class _Listener(Protocol):
    """An object that is notified of forks. It may also have `before_fork` and `after_fork_in_parent`."""

    def after_fork_in_child(self) -> None:
        """Drop the parent's connections. Must take no lock: a thread of the parent may have held it."""
        ...


_LISTENERS: set[ref[_Listener]] = set()
"""A set of weak references: copying it is atomic, whatever other threads do."""


def notify_on_fork(listener: _Listener) -> None:
    """Notify an object of every fork for as long as it lives."""
    _LISTENERS.add(ref(listener, _LISTENERS.discard))


def _notify(event: str) -> None:
    for listener in [reference() for reference in tuple(_LISTENERS)]:
        method = getattr(listener, event, None)
        if method is not None:
            method()


os.register_at_fork(
    before=lambda: _notify("before_fork"),
    after_in_parent=lambda: _notify("after_fork_in_parent"),
    after_in_child=lambda: _notify("after_fork_in_child"),
)
