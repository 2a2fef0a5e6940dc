# SPDX-License-Identifier: Apache-2.0
"""Calls from several threads at once.

Each thread waits for its answer before it calls again (closed loop).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["fan_out", "seconds_of"]

T = TypeVar("T")


def seconds_of(call: Callable[[T], object], item: T) -> float:
    """Return the duration of one call in seconds."""
    start = time.perf_counter()
    call(item)
    return time.perf_counter() - start


def fan_out(call: Callable[[T], object], items: Sequence[T], callers: int) -> tuple[float, list[float]]:
    """Call with every item from `callers` threads; return the total duration and that of each call, in seconds."""
    with ThreadPoolExecutor(callers, "caller") as pool:
        start = time.perf_counter()
        each = list(pool.map(lambda item: seconds_of(call, item), items))
        return time.perf_counter() - start, each
