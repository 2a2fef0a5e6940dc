# SPDX-License-Identifier: Apache-2.0
"""How a long list becomes requests: pure arithmetic over lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_requests"]


def plan_requests(sizes: NDArray[np.int64], *, max_rows: int, max_bytes: int) -> list[NDArray[np.int64]]:
    """Return which rows go into which request, the longest texts first.

    Texts of like length travel together, so that neither side handles much padding. A request holds as many
    rows as fit both limits, and always at least one.

    Args:
        sizes: `[B]` bytes of each text.
        max_rows: rows of one request.
        max_bytes: of one request's texts together; a single larger text still goes, alone.

    Returns:
        For each request the indices of its rows; together they are a permutation of `0 … B - 1`.

    Raises:
        ValueError: a limit below 1.
    """
    if max_rows < 1 or max_bytes < 1:
        raise ValueError(f"limits are {max_rows} rows and {max_bytes} bytes; expected at least 1 of each")
    order = np.argsort(-sizes, kind="stable")
    cumulated = np.cumsum(sizes[order])
    requests = []
    start = 0
    while start < len(order):
        sent = cumulated[start - 1] if start else 0
        fitting = int(np.searchsorted(cumulated, sent + max_bytes, side="right"))
        end = max(start + 1, min(fitting, start + max_rows))
        requests.append(order[start:end])
        start = end
    return requests
