# SPDX-License-Identifier: Apache-2.0
"""How a long list becomes requests: pure arithmetic over lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_pairs", "plan_requests"]


def plan_requests(
    sizes: NDArray[np.int64], *, max_rows: int, max_bytes: int, max_area: int | None = None
) -> list[NDArray[np.int64]]:
    """Return which rows go into which request, the longest texts first.

    Texts of like length travel together, so that neither side handles much padding. A request holds as many
    rows as fit all limits, and always at least one.

    Args:
        sizes: `[B]` bytes of each text.
        max_rows: rows of one request.
        max_bytes: of one request's texts together; a single larger text still goes, alone.
        max_area: of one request, its rows times the bytes of its longest text: what a padded reply grows with.

    Returns:
        For each request the indices of its rows; together they are a permutation of `0 … B - 1`.

    Raises:
        ValueError: a limit below 1.
    """
    order = np.argsort(-sizes, kind="stable")
    return _cut(order, sizes, max_rows, max_bytes, max_area)


def plan_pairs(
    queries: Sequence[str],
    query_sizes: NDArray[np.int64],
    passage_sizes: NDArray[np.int64],
    *,
    max_rows: int,
    max_bytes: int,
) -> list[NDArray[np.int64]]:
    """Return which pairs go into which request: those of one query together, as it is encoded once a request.

    Args:
        queries: of each of P pairs.
        query_sizes: `[P]` bytes of them, counted with the first pair of each query, though each request that has pairs
            of it carries it.
        passage_sizes: `[P]` bytes of the passages.
        max_rows: pairs of one request.
        max_bytes: of one request's texts together.
    """
    first: dict[str, int] = {}
    groups = np.fromiter((first.setdefault(query, i) for i, query in enumerate(queries)), np.int64, len(queries))
    order = np.lexsort((-passage_sizes, groups))
    begins = order[np.diff(groups[order], prepend=-1) != 0]  # the pair that each query travels with first
    sizes = passage_sizes.copy()
    sizes[begins] += query_sizes[begins]
    return _cut(order, sizes, max_rows, max_bytes, None)


def _cut(
    order: NDArray[np.int64], sizes: NDArray[np.int64], max_rows: int, max_bytes: int, max_area: int | None
) -> list[NDArray[np.int64]]:
    if min(limit for limit in (max_rows, max_bytes, max_area) if limit is not None) < 1:
        area = "" if max_area is None else f", and an area of {max_area}"
        raise ValueError(f"limits are {max_rows} rows and {max_bytes} bytes{area}; expected at least 1 of each")
    cumulated = np.cumsum(sizes[order])
    requests = []
    start = 0
    while start < len(order):
        sent = cumulated[start - 1] if start else 0
        fitting = int(np.searchsorted(cumulated, sent + max_bytes, side="right"))
        end = min(fitting, start + max_rows)
        if max_area is not None:
            end = min(end, start + max_area // max(1, int(sizes[order[start]])))
        end = max(end, start + 1)
        requests.append(order[start:end])
        start = end
    return requests
