# SPDX-License-Identifier: Apache-2.0
"""Plans which rows run together, and how they lie end to end: pure arithmetic over lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.tensors import NO_TOKEN

__all__ = [
    "attention_length",
    "batch_ranges",
    "lengths_before",
    "packed_length",
    "packed_lengths",
    "plan_micro_batches",
    "token_counts",
    "token_indices",
]


def plan_micro_batches(
    lengths: NDArray[np.int64], token_budget: int, *, padded: bool = False
) -> list[NDArray[np.int64]]:
    """Return which rows share a forward pass, the longest first.

    A micro-batch takes as many rows as its token budget allows, and at least one. Rows without a token are in no
    micro-batch.

    Args:
        lengths: `[B]` number of tokens of each row.
        token_budget: largest number of tokens of one micro-batch.
        padded: each row costs as much as the longest row of its micro-batch.

    Returns:
        For each micro-batch the `[M]` indices of its rows.
    """
    order = np.argsort(-lengths, kind="stable")[: int(np.count_nonzero(lengths))]
    if not padded:
        return [order[start:stop] for start, stop in batch_ranges(lengths[order], token_budget)]
    batches = []
    start = 0
    while start < len(order):
        stop = start + max(1, token_budget // int(lengths[order[start]]))
        batches.append(order[start:stop])
        start = stop
    return batches


def batch_ranges(costs: NDArray[np.int64], budget: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of batches over items in their order.

    Each batch has as many items as fit the budget, and at least one.

    Args:
        costs: `[S]` cost of each item.
        budget: largest cost of one batch.
    """
    ends = np.cumsum(costs)
    start = 0
    while start < len(costs):
        spent = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, spent + budget, side="right")))
        yield start, stop
        start = stop


def token_indices(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `start, start + 1, …` for each of several runs, end to end.

    Args:
        starts: `[S]` first index of each run.
        lengths: `[S]` length of each run.

    Returns:
        `[N]` indices, where N is the sum of the lengths; starts of 0 give the position of each token in its own text.
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def lengths_before(parents: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `[S]` number of tokens before those of each segment: the length of its parent, or 0 if that is -1."""
    return np.where(parents < 0, 0, lengths[parents])


def token_counts(input_ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return `[B]` number of tokens of each row of `input_ids`, `[B, T]`."""
    counts: NDArray[np.int64] = (input_ids != NO_TOKEN).sum(axis=1)
    return counts


def packed_length(tokens: int) -> int:
    """Return the length to which a packed batch is filled.

    On a CPU, the matrix kernels are built again for every new number of rows, which takes about 40 ms in total. They
    are fastest on whole tiles of 16 rows. Few lengths are therefore used: multiples of 16 up to 256, of 64 up to 1,024,
    and of 256 above.
    """
    step = 16 if tokens <= 256 else 64 if tokens <= 1024 else 256
    return -(-tokens // step) * step


def packed_lengths(token_budget: int) -> list[int]:
    """Return all lengths to which batches of up to `token_budget` tokens are filled, in order."""
    return sorted({packed_length(tokens) for tokens in range(1, token_budget + 1)})


def attention_length(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the length to which a text is padded inside attention only; texts of one length are grouped there.

    Attention kernels on a CPU take 1.5 times as long for lengths that are no multiple of 16.
    """
    step = np.where(tokens <= 128, 16, np.where(tokens <= 512, 32, 128))
    return -(-tokens // step) * step
