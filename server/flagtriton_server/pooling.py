# SPDX-License-Identifier: Apache-2.0
"""Token vectors to one vector a text. Pure torch; knows nothing of requests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["POOLING_METHODS", "cls_pool", "last_token_pool", "mean_pool", "to_embedding"]


def cls_pool(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """Return each text's first token vector.

    Args:
        hidden_states: `[B, T, D]`.
        mask: `[B, T]` bool, true at a text's own tokens, on either padding side.

    Returns:
        `[B, D]`; zero for a text without tokens.
    """
    return _vector_at(hidden_states, mask, mask.int().argmax(dim=1))


def last_token_pool(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """Return each text's last token vector; arguments as for `cls_pool`.

    Returns:
        `[B, D]`; zero for a text without tokens.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)  # [T]
    return _vector_at(hidden_states, mask, (positions * mask).argmax(dim=1))


def mean_pool(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each text's token vectors; arguments as for `cls_pool`.

    Returns:
        `[B, D]`; zero for a text without tokens.
    """
    weights = mask.to(hidden_states.dtype).unsqueeze(-1)  # [B, T, 1]
    return (hidden_states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def to_embedding(vectors: Tensor, *, truncate_dim: int | None, normalize: bool) -> Tensor:
    """Return the first `truncate_dim` components of each vector, L2-normalised after the cut.

    Args:
        vectors: `[B, D]`.
        truncate_dim: None, or D and more, keeps all.
        normalize: divide by the L2 norm, but by no less than 1e-12.
    """
    kept = vectors[:, :truncate_dim]
    return functional.normalize(kept, p=2, dim=-1) if normalize else kept


POOLING_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls_pool,
    "mean": mean_pool,
    "last_token": last_token_pool,
}


def _vector_at(hidden_states: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    rows = torch.arange(len(positions), device=positions.device)
    return hidden_states[rows, positions] * mask.any(dim=1).unsqueeze(-1)
