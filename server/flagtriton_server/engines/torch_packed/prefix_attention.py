# SPDX-License-Identifier: Apache-2.0
"""Causal attention of texts that share a prefix: over the prefix and over each text, and a merge of both.

Softmax attention over two sets of keys is the weighted mean of the attention over each set. The weight of a set is its
share of the sum of exponentials (Juravsky et al., "Hydragen", 2024). So the prefix's keys and values are read in place,
once for the queries of all texts. They are never copied next to the keys and values of each text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AttentionSpec", "attention_behind"]

_QUERIES_AT_ONCE = 256
"""Query rows per block when the score matrix is materialized; bounds peak memory for long texts."""


@dataclass(frozen=True)
class AttentionSpec:
    """Properties of a model's attention.

    Attributes:
        causal: whether a token sees only itself and the tokens before it.
        scale: factor of the scores; None is `d ** -0.5`.
        window: number of tokens, itself included, that a token sees on each side it may see; None is all.
        softcap: bound of the scores: a score s becomes `softcap * tanh(s / softcap)`; None leaves scores unchanged.
    """

    causal: bool = False
    scale: float | None = None
    window: int | None = None
    softcap: float | None = None


def attention_behind(
    prefix: tuple[Tensor, Tensor], query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
) -> Tensor:
    """Return `[G, H, L, d]`: attention of each of G texts over a prefix and over its own tokens up to each query.

    Args:
        prefix: keys and values of the prefix, `[P, Hkv, d]` each, where Hkv divides H.
        query: `[G, H, L, d]`.
        key: `[G, H, L, d]`.
        value: `[G, H, L, d]`.
        spec: properties of the model's attention; its window covers the prefix and a text together.
    """
    texts, heads, length, width = query.shape
    keys, values = (tensor.transpose(0, 1)[None] for tensor in prefix)  # [1, Hkv, P, d]
    folded = query.transpose(0, 1).reshape(1, keys.shape[1], -1, width)  # [1, Hkv, H / Hkv * G * L, d]
    before, before_weight = _with_weights(folded, keys, values, spec, causal=False)
    before = before.reshape(heads, texts, length, width).transpose(0, 1)  # [G, H, L, d]
    before_weight = before_weight.reshape(heads, texts, length).transpose(0, 1)  # [G, H, L]
    own, own_weight = _with_weights(query, key, value, spec, causal=True)
    share = torch.sigmoid(own_weight - before_weight).float().unsqueeze(-1)  # of own tokens in the sum of exponentials
    return torch.lerp(before.float(), own.float(), share).to(query.dtype)


def _with_weights(
    query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Return softmax attention `[G, H, L, d]`, and the logarithm of each sum of exponentials, `[G, H, L]`.

    The logarithm is float64 if it is computed here. Capped scores reach 50, and float32 holds 6 digits after the point
    of such a number. An error in the logarithm is an error in every weight. So each exponential is that of a score's
    distance to the greatest score.
    """
    if query.device.type == "cpu" and spec.softcap is None:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=spec.scale
        )
    scale = query.shape[-1] ** -0.5 if spec.scale is None else spec.scale
    mixed, weights = [], []
    for places in torch.arange(query.shape[2], device=query.device).split(_QUERIES_AT_ONCE):
        scores = (query[:, :, places] @ key.transpose(-1, -2) * scale).float()  # [G, H, l, keys]
        if spec.softcap is not None:
            scores = torch.tanh(scores / spec.softcap) * spec.softcap
        if causal:
            later = torch.arange(key.shape[2], device=query.device) > places[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        greatest = scores.amax(dim=-1, keepdim=True)
        exponentials = (scores - greatest).exp()
        total = exponentials.sum(dim=-1, keepdim=True)  # [G, H, l, 1], 1 or more
        mixed.append((exponentials / total).to(value.dtype) @ value)
        weights.append((greatest.double() + total.double().log()).squeeze(-1))
    return torch.cat(mixed, dim=2), torch.cat(weights, dim=2)
