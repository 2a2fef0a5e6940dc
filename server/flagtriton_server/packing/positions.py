# SPDX-License-Identifier: Apache-2.0
"""Positions: how many a checkpoint has, by its `config.json`, and which each token gets. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton_server.packing.ragged import token_indices

__all__ = ["counts_positions_behind_padding", "packed_positions", "position_capacity"]

_OFFSET_BY_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "data2vec-text",
)
"""Model types whose positions start behind the padding id, so that their table has that many rows more."""


def counts_positions_behind_padding(config: Mapping[str, Any]) -> bool:
    """Return whether a model's first position is `pad_token_id + 1`."""
    return config.get("model_type") in _OFFSET_BY_PADDING


def packed_positions(
    input_ids: NDArray[np.int64], lengths: NDArray[np.int64], padding_id: int | None
) -> NDArray[np.int64]:
    """Return `[N]` position ids for texts that lie end to end.

    Args:
        input_ids: `[N]`.
        lengths: `[M]` tokens of each text; N in all.
        padding_id: None counts every token from 0. Else counting starts at `padding_id + 1` and passes over padding
            ids inside a text, which get that id as their position, as RoBERTa's family has it.
    """
    if padding_id is None:
        return token_indices(np.zeros_like(lengths), lengths)
    counted = input_ids != padding_id  # [N]
    running = np.cumsum(counted)
    starts = np.cumsum(lengths) - lengths
    before = running[starts] - counted[starts]  # [M]
    return np.where(counted, running - np.repeat(before, lengths), 0) + padding_id


def position_capacity(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens of one text, special tokens included, or None where the model sets no limit.

    RoBERTa's family counts positions from `pad_token_id + 1`: a table of 514 rows holds 512 tokens.
    """
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int) or rows < 1:
        return None
    if counts_positions_behind_padding(config):
        pad = config.get("pad_token_id")
        return rows - (1 if pad is None else int(pad)) - 1
    return rows
