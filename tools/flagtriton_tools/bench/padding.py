# SPDX-License-Identifier: Apache-2.0
"""Computes the share of padding tokens from the lengths of texts, without timing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton_server.packing.ragged import packed_length, plan_micro_batches

__all__ = ["padding_waste"]

_BATCH = 256


@dataclass(frozen=True)
class PaddingWaste:
    """Shares of padding in all computed tokens.

    Attributes:
        packed: share in flagtriton's micro-batches, which are filled up to a length that suits the kernels.
        sorted: share in batches of 256 texts of similar length, as in FlagEmbedding and sentence-transformers.
        unsorted: share in batches of 256 texts in their original order.
    """

    packed: float
    sorted: float
    unsorted: float


def padding_waste(lengths: NDArray[Any], token_budget: int) -> PaddingWaste:
    """Return the padding waste of texts with these token counts, `[B]`."""
    batches = plan_micro_batches(lengths.astype(np.int64), token_budget)
    packed = sum(packed_length(int(lengths[batch].sum())) for batch in batches)
    tokens = float(lengths.sum())
    return PaddingWaste(
        1 - tokens / packed, 1 - tokens / _padded(np.sort(lengths)[::-1]), 1 - tokens / _padded(lengths)
    )


def _padded(lengths: NDArray[Any]) -> float:
    parts = [lengths[start : start + _BATCH] for start in range(0, len(lengths), _BATCH)]
    return float(sum(len(part) * part.max() for part in parts))
