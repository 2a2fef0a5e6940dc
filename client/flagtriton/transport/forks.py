# SPDX-License-Identifier: Apache-2.0
"""What threads and connections do when their process forks. Knows neither.

A child of `os.fork` has its parent's objects, but none of its threads, and must not speak on its connections. This is
the life of gunicorn's `--preload`, Celery's prefork pool, and the workers of a torch DataLoader.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import ref

__all__ = ["Forkable", "across_forks"]


class Forkable(Protocol):
    """What is told of a fork. It may also have `before_fork` and `after_fork_in_parent`."""

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent; no lock that a thread may have held can be taken."""
        ...


_TOLD: set[ref[Forkable]] = set()
"""A set of references, as that is copied in one go whatever other threads do."""


def across_forks(told: Forkable) -> None:
    """Tell an object of every fork, as long as it lives."""
    _TOLD.add(ref(told, _TOLD.discard))


def _tell(event: str) -> None:
    for told in [reference() for reference in tuple(_TOLD)]:
        getattr(told, event, _nothing)()


def _nothing() -> None:
    """Do nothing, as what an object without that method is told."""


os.register_at_fork(
    before=lambda: _tell("before_fork"),
    after_in_parent=lambda: _tell("after_fork_in_parent"),
    after_in_child=lambda: _tell("after_fork_in_child"),
)
