# SPDX-License-Identifier: Apache-2.0
"""Poolings: from token vectors to one vector for each text. Pure torch, independent of requests.

Texts lie end to end: `states` is `[N, D]`, and `lengths` `[B]` is the number of rows of each text, which may be 0.
`skipped`, `[B]`, is the number of each text's first rows that belong to its prompt. These rows are left out, as
sentence-transformers does with `include_prompt` false.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.protocol.model_classes import POOLINGS, check_pooling
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton_server.engines.finite import check_finite, finite_norms

__all__ = [
    "POOLING_METHODS",
    "ROW_CHOICES",
    "Pooling",
    "cls_pool",
    "last_token_pool",
    "max_pool",
    "mean_pool",
    "mean_sqrt_len_pool",
    "pooling_named",
    "to_embedding",
    "truncate_and_normalize",
    "weighted_mean_pool",
]

_BEYOND = 1e4
"""Value that FlagEmbedding's pseudo-MoE class puts in place of an infinity."""


class Pooling(Protocol):
    """Reduces the token vectors of each text to one vector."""

    def __call__(self, states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
        """Return `[B, D]` for states `[N, D]`, lengths `[B]` and skipped `[B]`; zero for a text without tokens."""
        ...


def cls_pool(states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return the first token vector of each text after the skipped ones, or its very first if none is left."""
    starts = lengths.cumsum(0) - lengths
    if skipped is not None:
        starts = starts + skipped.where(skipped < lengths, 0)
    return _rows_at(states, lengths, starts)


def last_token_pool(states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return the last token vector of each text; zero if that token is skipped."""
    rows = _rows_at(states, lengths, lengths.cumsum(0) - 1)
    return rows if skipped is None else rows.masked_fill((lengths <= skipped).unsqueeze(-1), 0)


def mean_pool(states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return the mean of each text's token vectors, summed in float32."""
    sums, counts = _sums(states, lengths, skipped)
    return sums / counts.clamp(min=1).unsqueeze(-1)


def mean_sqrt_len_pool(states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return the sum of each text's token vectors in float32, divided by the square root of their number."""
    sums, counts = _sums(states, lengths, skipped)
    return sums / counts.clamp(min=1).float().sqrt().unsqueeze(-1)


def weighted_mean_pool(states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return the mean of each text's token vectors, weighted by 1, 2, 3, … and summed in float32.

    Skipped tokens do not change the weights of the tokens after them.
    """
    texts, places = _places(lengths)
    weights = (places + 1).float()  # [N]
    if skipped is not None:
        weights = weights * (places >= skipped[texts])
    sums = _zeros(states, lengths).index_add_(0, texts, states.float() * weights.unsqueeze(-1))
    total = weights.new_zeros(len(lengths)).index_add_(0, texts, weights)
    return sums / total.clamp(min=1).unsqueeze(-1)


def max_pool(states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return the maximum of each component over the token vectors of a text, in float32."""
    texts, places = _places(lengths)
    if skipped is not None:
        kept = places >= skipped[texts]
        states, texts, lengths = states[kept], texts[kept], (lengths - skipped).clamp(min=0)
    greatest = _zeros(states, lengths) - torch.inf
    greatest.scatter_reduce_(0, texts.unsqueeze(-1).expand_as(states), states.float(), "amax")
    return greatest.masked_fill((lengths == 0).unsqueeze(-1), 0)


def truncate_and_normalize(vectors: Tensor, options: EmbedOptions, *, pseudo_moe: bool = False) -> Tensor:
    """Return vectors truncated and normalized as a request asks, `[B, D']` float32 on the same device.

    Args:
        vectors: `[B, D]`.
        options: `truncate_dim` is the number of first components that are kept (None, or D and more, keeps all).
            `normalize` then divides by the L2 norm, but by at least 1e-12.
        pseudo_moe: whether, between these two, nan becomes 0 and an infinity ±10,000, rounded to the vectors' dtype.

    Raises:
        NotFiniteError: a kept component, or a norm by which vectors are divided, is not finite.
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
    """Return the result of `truncate_and_normalize` as an array; raises the same `NotFiniteError`."""
    wanted: NDArray[np.float32] = truncate_and_normalize(vectors, options, pseudo_moe=pseudo_moe).cpu().numpy()
    return wanted


def pooling_named(method: str) -> Pooling:
    """Return a pooling by its name. Several names with `+` between them give a pooling that joins their vectors.

    Raises:
        ValueError: there is no such pooling.
    """
    pools = [POOLING_METHODS[name] for name in check_pooling(method)]
    return pools[0] if len(pools) == 1 else partial(_joined, pools)


POOLING_METHODS: dict[str, Pooling] = dict(
    zip(
        POOLINGS,
        (cls_pool, mean_pool, last_token_pool, max_pool, mean_sqrt_len_pool, weighted_mean_pool),
        strict=True,
    )
)

ROW_CHOICES: dict[str, Pooling | None] = {"all": None, "first": cls_pool, "last": last_token_pool}
"""From the hidden states of a text that leave the encoder to the function that picks one; None for all of them."""


def _joined(pools: Sequence[Pooling], states: Tensor, lengths: Tensor, skipped: Tensor | None = None, /) -> Tensor:
    """Return `[B, P * D]` float32, the joined vectors of P poolings."""
    return torch.cat([pool(states, lengths, skipped).float() for pool in pools], dim=-1)


def _sums(states: Tensor, lengths: Tensor, skipped: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sum of each text's token vectors, `[B, D]` float32, and the number of these vectors, `[B]`."""
    texts, places = _places(lengths)
    if skipped is not None:
        kept = places >= skipped[texts]
        states, texts, lengths = states[kept], texts[kept], (lengths - skipped).clamp(min=0)
    return _zeros(states, lengths).index_add_(0, texts, states.float()), lengths


def _places(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the text to which each of N rows belongs, and its place in that text, counted from 0; both `[N]`."""
    texts = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    starts = lengths.cumsum(0) - lengths
    return texts, torch.arange(len(texts), device=lengths.device) - starts[texts]


def _zeros(states: Tensor, lengths: Tensor) -> Tensor:
    return states.new_zeros(len(lengths), states.shape[1], dtype=torch.float32)


def _rows_at(states: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
    if not len(states):
        return states.new_zeros(len(lengths), states.shape[1])
    rows = states[places.clamp(0, len(states) - 1)]
    return rows.masked_fill((lengths == 0).unsqueeze(-1), 0)
