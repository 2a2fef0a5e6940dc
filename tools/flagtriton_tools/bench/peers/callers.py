# SPDX-License-Identifier: Apache-2.0
"""Many callers at once, each waiting for its answer before it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["fan_out", "seconds_of"]

T = TypeVar("T")


def seconds_of(call: Callable[[T], object], item: T) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    call(item)
    return time.perf_counter() - start


def fan_out(call: Callable[[T], object], items: Sequence[T], callers: int) -> tuple[float, list[float]]:
    """Call with every item, by so many threads; return the seconds of all together, and of each call."""
    with ThreadPoolExecutor(callers, "caller") as pool:
        start = time.perf_counter()
        each = list(pool.map(lambda item: seconds_of(call, item), items))
        return time.perf_counter() - start, each
