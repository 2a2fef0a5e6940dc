# SPDX-License-Identifier: Apache-2.0
"""Attention over texts that lie end to end without padding, and its registration with transformers.

A text may begin with the tokens of another text (`PackedTexts.parents`). It then attends to them without a copy.

The code handles tensors and lengths only. `[N, H, d]` are N packed tokens, H heads and d components of each head.
Keys and values have fewer heads if heads are shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from flagtriton_server.engines.torch_packed.prefix_attention import AttentionSpec, attention_behind
from flagtriton_server.packing.ragged import attention_length, lengths_before, token_indices

__all__ = ["ATTENTION_NAME", "PackedTexts", "packed_attention", "register_attention"]

ATTENTION_NAME = "flagtriton_packed"
"""Name of the function among transformers' attention implementations."""

_QUERIES_AT_ONCE = 256
"""Query rows per block when the score matrix is materialized; bounds peak memory for long texts."""


@dataclass(frozen=True)
class _Group:
    """Neighbouring texts of similar length, which go through attention as one padded batch."""

    tokens: slice  # of the packed batch
    before: slice | None  # the tokens of the prefix that all of them share
    shape: tuple[int, int]  # G texts, padded to L
    gather: Tensor | None  # [G * L] a packed token for each padded place; None if every text has L tokens
    scatter: Tensor | None  # [n] the padded place of each packed token
    lengths: Tensor  # [G]
    masks: dict[tuple[AttentionSpec, torch.dtype], Tensor] = field(default_factory=dict)  # shared by layers of one spec


@dataclass(frozen=True)
class PackedTexts:
    """The texts of one packed batch, end to end from its first token.

    Attributes:
        lengths: `[S]` tokens of each text; neighbours of similar length share one kernel call on a processor.
        device: device of the batch.
        parents: `[S]` index of the text that precedes a text's tokens, or -1. A parent has no parent itself. Only for
            causal attention whose window reaches back to the beginning of the parent.
    """

    lengths: NDArray[np.int64]
    device: torch.device
    parents: NDArray[np.int64] | None = None

    def to(self, device: torch.device | int | str, **_: object) -> PackedTexts:
        """Return the same texts on another device. Code that moves a module's inputs between devices calls it."""
        wanted = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if wanted == self.device:
            return self
        return self._elsewhere.setdefault(wanted, PackedTexts(self.lengths, wanted, self.parents))

    @cached_property
    def _elsewhere(self) -> dict[torch.device, PackedTexts]:
        """The texts on each further device, so that all layers there share the tensors computed from them."""
        return {}

    @property
    def token_count(self) -> int:
        """N without the tokens that fill the batch up."""
        return int(self.lengths.sum())

    @cached_property
    def cumulated(self) -> Tensor:
        """`[S + 1]` int32: the index of each text's first token, then N."""
        return _cumulated(self.lengths).to(self.device)

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor, int]:
        """Tokens that each text sees, its parent's and its own: `[M]` indices, `[S + 1]` offsets, greatest count."""
        assert self.parents is not None
        starts = np.cumsum(self.lengths) - self.lengths
        before = lengths_before(self.parents, self.lengths)
        runs = np.stack([starts[self.parents], starts], axis=1).reshape(-1)  # [2 S]
        tokens = token_indices(runs, np.stack([before, self.lengths], axis=1).reshape(-1))
        all_lengths = before + self.lengths
        return torch.from_numpy(tokens).to(self.device), _cumulated(all_lengths).to(self.device), int(all_lengths.max())

    @cached_property
    def groups(self) -> list[_Group]:
        """Runs of texts that are padded to the same length and have the same parent, or none."""
        padded = attention_length(self.lengths)
        parents = np.full_like(padded, -1) if self.parents is None else self.parents
        changes = np.flatnonzero(np.diff(padded) | np.diff(parents)) + 1
        edges = pairwise([0, *changes.tolist(), len(padded)])
        starts = np.cumsum(self.lengths) - self.lengths
        prefixes = {p: slice(int(starts[p]), int(starts[p] + self.lengths[p])) for p in set(parents.tolist()) - {-1}}
        return [
            self._group(starts[a:b], self.lengths[a:b], int(padded[a]), prefixes.get(int(parents[a]))) for a, b in edges
        ]

    def _group(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], padded: int, before: slice | None
    ) -> _Group:
        rows = len(lengths)
        tokens = slice(int(starts[0]), int(starts[-1] + lengths[-1]))
        on_device = torch.from_numpy(lengths).to(self.device)
        if (lengths == padded).all():
            return _Group(tokens, before, (rows, padded), None, None, on_device)
        scatter = token_indices(np.arange(rows) * padded, lengths)
        gather = np.repeat(starts, padded)  # padding takes the text's first token, which no token sees there
        gather[scatter] = np.arange(tokens.start, tokens.stop)
        gather_on, scatter_on = (torch.from_numpy(index).to(self.device) for index in (gather, scatter))
        return _Group(tokens, before, (rows, padded), gather_on, scatter_on, on_device)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, texts: PackedTexts, spec: AttentionSpec) -> Tensor:
    """Return softmax attention of every text over its own tokens, and those of its parent if it has one.

    On CUDA in half precision without a softcap, torch's variable-length kernel computes it. Otherwise groups of similar
    length go through scaled-dot-product attention, padded to kernel-friendly lengths.

    Args:
        query: `[N, H, d]`.
        key: `[N, Hkv, d]`, where Hkv divides H.
        value: `[N, Hkv, d]`.
        texts: the packed texts; N may be greater than the number of their tokens.
        spec: properties of the model's attention.

    Returns:
        `[N, H, d]`; zero after the last text.
    """
    if query.is_cuda and query.dtype != torch.float32 and spec.softcap is None:
        return _varlen(query, key, value, texts, spec)
    result = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    result[texts.token_count :] = 0
    for group in texts.groups:
        q, k, v = (_padded(tensor, group) for tensor in (query, key, value))  # [G, L, H, d]
        if key.shape[1] != query.shape[1]:
            repeats = query.shape[1] // key.shape[1]
            k, v = (tensor.repeat_interleave(repeats, dim=2) for tensor in (k, v))
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        if group.before is None:
            mixed = _group_attention(q, k, v, group, spec)  # [G, H, L, d]
        else:
            mixed = attention_behind((key[group.before], value[group.before]), q, k, v, spec)
        rows = mixed.transpose(1, 2).flatten(0, 1)  # [G * L, H, d]
        if group.scatter is not None:
            rows = rows.index_select(0, group.scatter)
        result[group.tokens] = rows
    return result


def _varlen(query: Tensor, key: Tensor, value: Tensor, texts: PackedTexts, spec: AttentionSpec) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    n, longest = texts.token_count, int(texts.lengths.max())
    back = -1 if spec.window is None else spec.window - 1
    if texts.parents is None:
        key, value, seen, most_seen = key[:n], value[:n], texts.cumulated, longest
    else:  # causal masks align the last query with the last key, so all queries of a text see its prefix
        tokens, seen, most_seen = texts.seen
        key, value = key.index_select(0, tokens), value.index_select(0, tokens)
    result = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    mixed = varlen_attn(
        query[:n],
        key,
        value,
        texts.cumulated,
        seen,
        longest,
        most_seen,
        scale=spec.scale,
        window_size=(back, 0 if spec.causal else back),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(mixed, Tensor)  # a pair only if the log-sum-exp is requested
    result[:n] = mixed
    return result


def _cumulated(lengths: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))


def _padded(tensor: Tensor, group: _Group) -> Tensor:
    rows = tensor[group.tokens] if group.gather is None else tensor.index_select(0, group.gather)
    return rows.unflatten(0, group.shape)


def _group_attention(query: Tensor, key: Tensor, value: Tensor, group: _Group, spec: AttentionSpec) -> Tensor:
    """Return `[G, H, L, d]`, the shape of query, key and value. Places after a text's end have undefined values."""
    length = group.shape[1]
    windowed = spec.window is not None and spec.window < length
    if spec.softcap is not None:
        return _plain_attention(query, key, value, group, spec)
    if spec.causal and not windowed:  # padding lies after each text, where none of its tokens attends
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=spec.scale)
    mask = None
    if windowed or group.gather is not None:
        mask = group.masks.get((spec, query.dtype))
        if mask is None:
            seen = _visible(group, spec, torch.arange(length, device=query.device))
            mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill_(~seen, -torch.inf)
            group.masks[spec, query.dtype] = mask
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=spec.scale)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, group: _Group, spec: AttentionSpec) -> Tensor:
    """Return attention with capped scores, which no fused kernel supports: softmax in float32, in blocks of queries."""
    scale = query.shape[-1] ** -0.5 if spec.scale is None else spec.scale
    parts = []
    for places in torch.arange(query.shape[2], device=query.device).split(_QUERIES_AT_ONCE):
        scores = query[:, :, places] @ key.transpose(-1, -2) * scale  # [G, H, l, L]
        if spec.softcap is not None:
            scores = torch.tanh(scores / spec.softcap) * spec.softcap
        scores = scores.masked_fill(~_visible(group, spec, places), torch.finfo(scores.dtype).min)
        parts.append(scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value)
    return torch.cat(parts, dim=2)


def _visible(group: _Group, spec: AttentionSpec, places: Tensor) -> Tensor:
    """Return `[G, 1, l, L]` bool: which keys each of l query places may see (l is 1 if all see the same)."""
    keys = torch.arange(group.shape[1], device=places.device)
    seen = (keys < group.lengths[:, None])[:, None, None]  # [G, 1, 1, L]
    distance = places[:, None] - keys  # [l, L], positive for keys before the query
    if spec.causal:
        seen = seen & (distance >= 0)
    if spec.window is not None and spec.window < group.shape[1]:
        # The diagonal stays visible for places after a text's end, so that no softmax is over an empty set.
        seen = (seen & (distance.abs() < spec.window)) | (distance == 0)
    return seen


def register_attention() -> None:
    """Register `packed_attention` with transformers under `ATTENTION_NAME`.

    A model that uses it is called with the texts as `packed=`, one batch row of N tokens, and position ids.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(ATTENTION_NAME, _transformers_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


def _transformers_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedTexts,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Adapt `packed_attention` to the signature that transformers calls: `[1, H, N, d]` in, `[1, N, H, d]` out."""
    del attention_mask  # `packed` has this information
    spec = AttentionSpec(bool(getattr(module, "is_causal", False)), scaling, sliding_window, softcap)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return packed_attention(q, k, v, texts=packed, spec=spec)[None], None
