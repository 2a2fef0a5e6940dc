# SPDX-License-Identifier: Apache-2.0
"""Token vectors to one vector a text. Pure torch; knows nothing of requests.

Texts lie end to end: `states` is `[N, D]`, and `lengths` `[B]` says how many rows each text has, none included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.options import EmbedOptions
from flagtriton_server.finite import check_finite, finite_norms

__all__ = [
    "POOLING_METHODS",
    "ROW_CHOICES",
    "Pooling",
    "cls_pool",
    "finished",
    "last_token_pool",
    "mean_pool",
    "pooling_named",
    "to_embedding",
]

_BEYOND = 1e4
"""What FlagEmbedding's pseudo-MoE class puts in place of an infinity."""

Pooling: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes states `[N, D]` and lengths `[B]`; returns `[B, D]`, zero for a text without tokens."""


def cls_pool(states: Tensor, lengths: Tensor) -> Tensor:
    """Return each text's first token vector."""
    return _rows_at(states, lengths, lengths.cumsum(0) - lengths)


def last_token_pool(states: Tensor, lengths: Tensor) -> Tensor:
    """Return each text's last token vector."""
    return _rows_at(states, lengths, lengths.cumsum(0) - 1)


def mean_pool(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean of each text's token vectors, summed in float32."""
    texts = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)  # [N]
    sums = states.new_zeros(len(lengths), states.shape[1], dtype=torch.float32)
    return sums.index_add_(0, texts, states.float()) / lengths.clamp(min=1).unsqueeze(-1)


def finished(vectors: Tensor, options: EmbedOptions, *, pseudo_moe: bool = False) -> Tensor:
    """Return vectors as a request wants them, `[B, D']` float32, where they are.

    Args:
        vectors: `[B, D]`.
        options: `truncate_dim` keeps the first so many components (None, or D and more, keeps all); `normalize` then
            divides by the L2 norm, but by no less than 1e-12.
        pseudo_moe: in between, nan becomes 0 and an infinity ±10,000, as that dtype has it.

    Raises:
        NotFiniteError: a component that is kept is not finite, before it is divided.
    """
    kept = vectors[:, : options.truncate_dim]
    if pseudo_moe:
        kept = kept.nan_to_num(nan=0.0, posinf=_BEYOND, neginf=-_BEYOND)
    kept = kept.float()
    if options.normalize:
        return kept / finite_norms(kept, "components of vectors")
    check_finite(kept, "components of vectors")
    return kept


def to_embedding(vectors: Tensor, options: EmbedOptions, *, pseudo_moe: bool = False) -> NDArray[np.float32]:
    """Return `finished` vectors as an array; raises `NotFiniteError` as it does."""
    wanted: NDArray[np.float32] = finished(vectors, options, pseudo_moe=pseudo_moe).cpu().numpy()
    return wanted


def pooling_named(method: str) -> Pooling:
    """Return a pooling by FlagEmbedding's name for it.

    Raises:
        ValueError: there is no such pooling.
    """
    if method not in POOLING_METHODS:
        raise ValueError(f"pooling_method is {method!r}; expected one of {', '.join(POOLING_METHODS)}")
    return POOLING_METHODS[method]


POOLING_METHODS: dict[str, Pooling] = {"cls": cls_pool, "mean": mean_pool, "last_token": last_token_pool}

ROW_CHOICES: dict[str, Pooling | None] = {"all": None, "first": cls_pool, "last": last_token_pool}
"""Which of a text's hidden states leave the encoder, to the function that picks one of them."""


def _rows_at(states: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    if not len(states):
        return states.new_zeros(len(lengths), states.shape[1])
    rows = states[places.clamp(0, len(states) - 1)]
    return rows.masked_fill((lengths == 0).unsqueeze(-1), 0)
