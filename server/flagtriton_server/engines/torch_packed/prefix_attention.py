# SPDX-License-Identifier: Apache-2.0
"""Causal attention of texts that share a prefix: over the prefix, over each text itself, and both put together.

Softmax over two sets of keys is the mean of the softmax over each, weighted by the share that each has of the sum of
exponentials (Juravsky et al., "Hydragen", 2024). So the prefix's keys and values are read where they lie, once for the
queries of all texts, and are never copied beside each text's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AttentionSpec", "attention_behind"]

_QUERIES_AT_ONCE = 256
"""Rows of a score matrix that is computed in plain sight; bounds its memory for long texts."""


@dataclass(frozen=True)
class AttentionSpec:
    """What a model asks of its attention.

    Attributes:
        causal: a token sees itself and those before it only.
        scale: the scores' factor; None is `d ** -0.5`.
        window: a token sees this many tokens, itself included, on the sides it may see; None is all.
        softcap: scores s become `softcap * tanh(s / softcap)`.
    """

    causal: bool = False
    scale: float | None = None
    window: int | None = None
    softcap: float | None = None


def attention_behind(
    prefix: tuple[Tensor, Tensor], query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
) -> Tensor:
    """Return `[G, H, L, d]`: each of G texts' attention over a prefix and over its own tokens up to each query.

    Args:
        prefix: its keys and values, `[P, Hkv, d]` each, where Hkv divides H.
        query: `[G, H, L, d]`.
        key: `[G, H, L, d]`.
        value: `[G, H, L, d]`.
        spec: what the model asks for; its window reaches farther than P + L.
    """
    texts, heads, length, width = query.shape
    keys, values = (tensor.transpose(0, 1)[None] for tensor in prefix)  # [1, Hkv, P, d]
    folded = query.transpose(0, 1).reshape(1, keys.shape[1], -1, width)  # [1, Hkv, H / Hkv * G * L, d]
    before, before_weight = _with_weights(folded, keys, values, spec, causal=False)
    before = before.reshape(heads, texts, length, width).transpose(0, 1)  # [G, H, L, d]
    before_weight = before_weight.reshape(heads, texts, length).transpose(0, 1)  # [G, H, L]
    own, own_weight = _with_weights(query, key, value, spec, causal=True)
    share = torch.sigmoid(own_weight - before_weight).float().unsqueeze(-1)  # of the sum of exponentials
    return torch.lerp(before.float(), own.float(), share).to(query.dtype)


def _with_weights(
    query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Return softmax attention `[G, H, L, d]`, and the logarithm of each sum of exponentials, `[G, H, L]`.

    The logarithm is float64 where it is computed here: of 50, which capped scores reach, float32 has 6 digits behind
    the point, and an error in it is one in every weight. So exponentials are of a score's distance to the greatest.
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
