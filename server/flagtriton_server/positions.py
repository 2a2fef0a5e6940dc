# SPDX-License-Identifier: Apache-2.0
"""How many tokens a checkpoint has positions for, by its `config.json`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["position_capacity"]

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


def position_capacity(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens of one text, special tokens included, or None where the model sets no limit.

    RoBERTa's family counts positions from `pad_token_id + 1`: a table of 514 rows holds 512 tokens.
    """
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int) or rows < 1:
        return None
    if config.get("model_type") in _OFFSET_BY_PADDING:
        pad = config.get("pad_token_id")
        return rows - (1 if pad is None else int(pad)) - 1
    return rows
