# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a loaded encoder: texts lie end to end, or are padded if the model supports nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton_server.engines.torch_packed.attention import PackedTexts
from flagtriton_server.packing.positions import packed_positions
from flagtriton_server.packing.ragged import lengths_before, packed_length, token_indices

__all__ = ["LoadedEncoder", "Precision", "forward"]


@dataclass(frozen=True)
class Precision:
    """The dtypes of one deployment.

    Attributes:
        name: `fp32`, `fp16` or `bf16`.
        stored: dtype to which the weights are rounded when they are read.
        computed: dtype of the computation with them.
    """

    name: str
    stored: torch.dtype
    computed: torch.dtype


@dataclass(frozen=True)
class LoadedEncoder:
    """A module that is ready to run, and the properties of it that callers need.

    Attributes:
        module: a transformers model on `device`.
        vocab_size: upper bound of token ids, which are all below it.
        pad_token_id: id that fills rows up.
        hidden_size: D.
        packed: whether texts go through the module end to end; else they are padded to the longest of a pass.
        pads: whether texts of several lengths may be padded; else only texts of one length share a pass.
        pad_has_position: whether a padding id inside a text counts as a position. In RoBERTa's family it does not,
            and positions begin after the padding id.
        knows_types: whether the tokens of a pair's two parts have different types.
        max_shared_length: most tokens of a text that may share a prefix; 0 if the model does not allow it.
        scores: whether the module is a reranker with its head. D is then 1, and every token of a pair has its score.
        arguments: further arguments of the module, for every forward pass.
        on_forward_pass: called for every forward pass with its tokens, and the places that it computes.
    """

    module: Any
    device: torch.device
    precision: Precision
    vocab_size: int
    pad_token_id: int
    hidden_size: int
    packed: bool = False
    pads: bool = True
    pad_has_position: bool = True
    knows_types: bool = False
    max_shared_length: int = 0
    scores: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    on_forward_pass: Callable[[int, int], None] = lambda tokens, places: None


def forward(
    encoder: LoadedEncoder,
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    parents: NDArray[np.int64] | None = None,
    token_types: NDArray[np.int64] | None = None,
) -> Tensor:
    """Return the last hidden states of some texts, `[N, D]` on the encoder's device, in the encoder's dtype.

    Args:
        encoder: the module.
        input_ids: `[N]` token ids of the texts, end to end.
        lengths: `[M]` tokens of each text, the longest first.
        parents: `[M]` index of the text whose tokens precede a text's own, or -1; None if no text has one. Only for
            an encoder with `max_shared_length`.
        token_types: `[N]` 0 or 1, BERT's token types of a pair; None is 0 for all.
    """
    if not encoder.packed:
        run = _forward_padded if encoder.pads else _forward_by_length
        return run(encoder, input_ids, lengths, token_types)
    if parents is None or (parents < 0).all():
        padding_id = None if encoder.pad_has_position else encoder.pad_token_id
        positions = packed_positions(input_ids, lengths, padding_id)
        return _forward_packed(encoder, input_ids, positions, PackedTexts(lengths, encoder.device), token_types)
    positions = token_indices(lengths_before(parents, lengths), lengths)
    return _forward_packed(encoder, input_ids, positions, PackedTexts(lengths, encoder.device, parents))


def _forward_packed(
    encoder: LoadedEncoder,
    input_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    texts: PackedTexts,
    token_types: NDArray[np.int64] | None = None,
) -> Tensor:
    n = len(input_ids)
    filled = n if encoder.device.type == "cuda" else packed_length(n)
    encoder.on_forward_pass(n, filled)
    ids = np.full((1, filled), encoder.pad_token_id, dtype=np.int64)
    ids[0, :n] = input_ids
    filled_positions = np.zeros_like(ids)
    filled_positions[0, :n] = positions
    states = encoder.module(
        input_ids=_to_device(ids, encoder.device),
        position_ids=_to_device(filled_positions, encoder.device),
        packed=texts,
        **_typed(encoder, token_types, ids.shape, np.arange(n)),
        **encoder.arguments,
    ).last_hidden_state  # [1, N, D]
    return states[0, :n].to(encoder.device)  # a module on several devices leaves them on the last


def _forward_padded(
    encoder: LoadedEncoder,
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    token_types: NDArray[np.int64] | None,
) -> Tensor:
    rows, longest = len(lengths), int(lengths[0])
    encoder.on_forward_pass(len(input_ids), rows * longest)
    ids = np.full((rows, longest), encoder.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    places = token_indices(np.arange(rows) * longest, lengths)
    ids.reshape(-1)[places] = input_ids
    mask.reshape(-1)[places] = 1
    states = encoder.module(
        input_ids=_to_device(ids, encoder.device),
        attention_mask=_to_device(mask, encoder.device),
        **_typed(encoder, token_types, ids.shape, places),
        **encoder.arguments,
    ).last_hidden_state  # [M, T, D]
    return states.flatten(0, 1)[_to_device(places, encoder.device)]


def _forward_by_length(
    encoder: LoadedEncoder,
    input_ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    token_types: NDArray[np.int64] | None,
) -> Tensor:
    """Return the result of `_forward_padded`, computed in one pass for each length."""
    changes = np.flatnonzero(np.diff(lengths)) + 1  # texts with another length than the text before
    tokens = np.cumsum(lengths)[changes - 1]
    types = [None] * (len(changes) + 1) if token_types is None else np.split(token_types, tokens)
    passes = zip(np.split(input_ids, tokens), np.split(lengths, changes), types, strict=True)
    return torch.cat([_forward_padded(encoder, *arguments) for arguments in passes])


def _typed(
    encoder: LoadedEncoder, token_types: NDArray[np.int64] | None, shape: tuple[int, ...], places: NDArray[np.int64]
) -> dict[str, Tensor]:
    """Return the argument with token types, `[N]`, at their places in ids of a shape; empty if there are no types."""
    if token_types is None or not encoder.knows_types:
        return {}
    filled = np.zeros(shape, dtype=np.int64)
    filled.reshape(-1)[places] = token_types
    return {"token_type_ids": _to_device(filled, encoder.device)}


def _to_device(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return the array on the device. A copy to a GPU is from pinned memory and does not block."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
