# SPDX-License-Identifier: Apache-2.0
"""The decoder of layerwise rerankers, MiniCPM's or Gemma-2's, one layer at a time over texts that lie end to end.

The code follows the mathematics of the papers (Hu et al., "MiniCPM", 2024; Gemma Team, "Gemma 2", 2024) and
docs/reference-behaviour.md#layerwise-scores and #lightweight-scores. Parameters have the names that they have in the
released checkpoints.
Attention scores are not soft-capped: FlagEmbedding, with which the lightweight reranker was trained, does not cap them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from flagtriton_server.engines.torch_packed.attention import PackedTexts, packed_attention
from flagtriton_server.engines.torch_packed.prefix_attention import AttentionSpec
from flagtriton_server.layerwise.spec import LayerwiseSpec

__all__ = ["LayerHeads", "LayerwiseDecoder", "rotation"]

Rotation: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary angles, `[N, 1, d / 2]` float32 each."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}


class LayerwiseDecoder(PreTrainedModel):  # type: ignore[misc]
    """The network without its heads; `PreTrainedModel` reads the weights.

    Args:
        config: configuration of transformers; only its defaults are used.
        spec: the architecture.
    """

    config_class = PretrainedConfig
    base_model_prefix = "model"
    _keys_to_ignore_on_load_unexpected = (r"^lm_head\.",)

    def __init__(self, config: PretrainedConfig, spec: LayerwiseSpec) -> None:
        super().__init__(config)
        self.spec = spec
        self.embed_tokens = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList([_Layer(spec, index) for index in range(spec.layers)])
        self.norm = _RMSNorm(spec)
        self.post_init()

    def embedded(self, input_ids: Tensor) -> Tensor:
        """Return the input of the first layer, `[N, D]`, for token ids `[N]`."""
        vectors = self.embed_tokens(input_ids)
        scale = torch.tensor(self.spec.embedding_scale, dtype=vectors.dtype)  # rounded like the vectors
        return vectors * scale.to(vectors.device)

    def through(self, layer: int, x: Tensor, angles: Rotation, texts: PackedTexts) -> Tensor:
        """Return the output of one layer, `[N, D]`, for its input.

        Args:
            layer: index of the layer, from 0.
            x: `[N, D]`, the input.
            angles: rotary angles of each token's position in its text.
            texts: the packed texts.
        """
        return self.layers[layer](x, angles, texts)


class LayerHeads(PreTrainedModel):  # type: ignore[misc]
    """The heads, under the names that they have in the released checkpoints.

    Args:
        config: as for `LayerwiseDecoder`.
        spec: the architecture, which has the number of heads.
    """

    config_class = PretrainedConfig
    _keys_to_ignore_on_load_unexpected = (r"^model\.", r"^lm_head\.weight$")

    def __init__(self, config: PretrainedConfig, spec: LayerwiseSpec) -> None:
        super().__init__(config)
        self.lm_head = nn.ModuleList([_Head(spec) for _ in spec.head_layers])
        self.post_init()


def rotation(positions: Tensor, spec: LayerwiseSpec) -> Rotation:
    """Return the rotary angles' cosines and sines for `[N]` positions (Su et al., "RoFormer", 2021).

    The angles are in float64, for the reason in `loading/precision.py`.
    """
    halves = torch.arange(0, spec.head_dim, 2, dtype=torch.float32, device=positions.device) / spec.head_dim
    angles = (positions[:, None].double() * (spec.rope_theta**-halves).double())[:, None]  # [N, 1, d / 2]
    return angles.cos().float(), angles.sin().float()


class _Head(nn.Module):
    def __init__(self, spec: LayerwiseSpec) -> None:
        super().__init__()
        self.linear_head = nn.Linear(spec.hidden_size, 1, bias=False)


class _RMSNorm(nn.Module):
    """Root-mean-square normalization in float32."""

    def __init__(self, spec: LayerwiseSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.hidden_size))
        self.eps, self.around_one = spec.norm_eps, spec.gemma_norms

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(_mean_of_squares(x) + self.eps)  # [N, D] float32
        if self.around_one:
            return (normed * (1 + self.weight.float())).to(x.dtype)
        return normed.to(x.dtype) * self.weight


def _mean_of_squares(x: Tensor) -> Tensor:
    """Return `[N, 1]` float32. In half precision it avoids a copy of x in float32, which would be most of its cost."""
    if x.dtype == torch.float32:
        return x.square().mean(dim=-1, keepdim=True)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / x.shape[-1]


class _Attention(nn.Module):
    def __init__(self, spec: LayerwiseSpec, index: int) -> None:
        super().__init__()
        linear = partial(nn.Linear, bias=spec.projection_bias)
        self.q_proj = linear(spec.hidden_size, spec.heads * spec.head_dim)
        self.k_proj = linear(spec.hidden_size, spec.kv_heads * spec.head_dim)
        self.v_proj = linear(spec.hidden_size, spec.kv_heads * spec.head_dim)
        self.o_proj = linear(spec.heads * spec.head_dim, spec.hidden_size)
        self.head_dim = spec.head_dim
        window = spec.window if index % 2 == 0 else None
        self.kind = AttentionSpec(causal=True, scale=spec.attention_scale, window=window)

    def forward(self, x: Tensor, angles: Rotation, texts: PackedTexts) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # [N, H, d], [N, Hkv, d] twice
        query, key = _rotated(query, angles), _rotated(key, angles)
        return self.o_proj(packed_attention(query, key, value, texts, self.kind).flatten(1))


class _FeedForward(nn.Module):
    """The gated feed-forward network (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    def __init__(self, spec: LayerwiseSpec) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden_size, spec.intermediate_size, bias=False)
        self.up_proj = nn.Linear(spec.hidden_size, spec.intermediate_size, bias=False)
        self.down_proj = nn.Linear(spec.intermediate_size, spec.hidden_size, bias=False)
        self.activation = _ACTIVATIONS[spec.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)).mul_(self.up_proj(x)))


class _Layer(nn.Module):
    def __init__(self, spec: LayerwiseSpec, index: int) -> None:
        super().__init__()
        self.self_attn = _Attention(spec, index)
        self.mlp = _FeedForward(spec)
        self.input_layernorm = _RMSNorm(spec)
        self.post_attention_layernorm = _RMSNorm(spec)
        if spec.gemma_norms:
            self.pre_feedforward_layernorm = _RMSNorm(spec)
            self.post_feedforward_layernorm = _RMSNorm(spec)
        self.gemma_norms, self.branch_scale = spec.gemma_norms, spec.branch_scale

    def forward(self, x: Tensor, angles: Rotation, texts: PackedTexts) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), angles, texts)
        if self.gemma_norms:
            x = x + self.post_attention_layernorm(mixed)
            return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        x = x + mixed * self.branch_scale
        return x + self.mlp(self.post_attention_layernorm(x)) * self.branch_scale


def _rotated(x: Tensor, angles: Rotation) -> Tensor:
    """Return `[N, H, d]` rotated by each token's angles, computed in float32."""
    cosines, sines = angles
    first, second = x.chunk(2, dim=-1)
    turned = torch.empty_like(x)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.sub(first * cosines, second * sines, out=turned_first)
    torch.add(second * cosines, first * sines, out=turned_second)
    return turned
