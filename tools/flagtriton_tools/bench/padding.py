# SPDX-License-Identifier: Apache-2.0
"""How much of the work would be padding, counted rather than timed."""

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
    """Tokens computed and thrown away, as a part of all tokens computed.

    Attributes:
        packed: by us, who fill a batch up to a length that kernels like.
        sorted: in batches of 256 texts of like length, as FlagEmbedding and sentence-transformers make them.
        unsorted: in batches of 256 as the texts come.
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
