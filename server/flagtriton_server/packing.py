# SPDX-License-Identifier: Apache-2.0
"""Which rows run together: micro-batches of like length under a token budget. Pure arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_micro_batches"]


def plan_micro_batches(lengths: NDArray[np.int64], token_budget: int) -> list[NDArray[np.int64]]:
    """Return which rows share a forward pass, the longest first.

    A micro-batch is padded to its first row, so it costs rows times that length, and takes as many rows as keep
    that within the budget; always at least one. Rows without a token are in none.

    Args:
        lengths: `[B]` tokens of each row.
        token_budget: tokens of one micro-batch, padding included.

    Returns:
        For each micro-batch the `[M]` indices of its rows.
    """
    order = np.argsort(-lengths, kind="stable")[: int(np.count_nonzero(lengths))]
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches
