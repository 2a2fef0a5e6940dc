# SPDX-License-Identifier: Apache-2.0
"""Position ids of tokens that lie end to end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flagtriton_server.packing.ragged import token_indices

__all__ = ["packed_positions"]


def packed_positions(
    input_ids: NDArray[np.int64], lengths: NDArray[np.int64], padding_id: int | None
) -> NDArray[np.int64]:
    """Return `[N]` position ids for texts that lie end to end.

    Args:
        input_ids: `[N]` token ids.
        lengths: `[M]` number of tokens of each text; the sum is N.
        padding_id: None to count every token from 0. Otherwise the count starts at `padding_id + 1` and skips padding
            ids inside a text. A padding id gets itself as position, as in RoBERTa's family.
    """
    if padding_id is None:
        return token_indices(np.zeros_like(lengths), lengths)
    counted = input_ids != padding_id  # [N]
    running = np.cumsum(counted)
    starts = np.cumsum(lengths) - lengths
    before = running[starts] - counted[starts]  # [M]
    return np.where(counted, running - np.repeat(before, lengths), 0) + padding_id
