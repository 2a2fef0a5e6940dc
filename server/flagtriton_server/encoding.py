# SPDX-License-Identifier: Apache-2.0
"""Ragged token ids to hidden states: all rows of all requests, in padded micro-batches under one token budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol import PAST_END
from flagtriton_server.loading import LoadedEncoder
from flagtriton_server.packing import plan_micro_batches
from flagtriton_server.rejection import RequestError

__all__ = ["check_token_ids", "encode_rows"]


def check_token_ids(input_ids: NDArray[np.int32], vocab_size: int, max_length: int) -> None:
    """Refuse what would make the module read outside its tables.

    Args:
        input_ids: `[B, T]`, `PAST_END` behind each row's tokens.
        vocab_size: ids are below it.
        max_length: T at most.

    Raises:
        RequestError: says which limit was passed.
    """
    if input_ids.shape[1] > max_length:
        raise RequestError(f"input_ids has {input_ids.shape[1]} tokens a row; this model takes {max_length}")
    if ((input_ids[:, :-1] == PAST_END) & (input_ids[:, 1:] != PAST_END)).any():
        raise RequestError(f"input_ids has {PAST_END} between tokens; it fills rows up behind their last token only")
    if input_ids.size and not (input_ids.min() >= PAST_END and input_ids.max() < vocab_size):
        raise RequestError(
            f"input_ids runs from {input_ids.min()} to {input_ids.max()}; expected 0 to {vocab_size - 1}, "
            f"and {PAST_END} behind a row's last token"
        )


@torch.inference_mode()
def encode_rows(
    encoder: LoadedEncoder, requests: Sequence[NDArray[np.int32]], token_budget: int
) -> list[NDArray[np.float32]]:
    """Return the last hidden states of every request, `[B, T, D]` float32, zero behind a row's last token.

    Args:
        encoder: the module and its limits.
        requests: `[B, T]` token ids each, `PAST_END` behind a row's tokens; B and T are each request's own.
        token_budget: tokens of one forward pass, padding included.
    """
    rows = [row[row != PAST_END] for input_ids in requests for row in input_ids]
    outputs = [np.zeros((*ids.shape, encoder.hidden_size), dtype=np.float32) for ids in requests]
    places = [place for output in outputs for place in output]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    for batch in plan_micro_batches(lengths, token_budget):
        hidden_states = _forward(encoder, [rows[i] for i in batch])
        for i, states in zip(batch, hidden_states, strict=True):
            places[i][: lengths[i]] = states[: lengths[i]]
    return outputs


def _forward(encoder: LoadedEncoder, rows: list[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Return `[M, T, D]` float32 for M rows of token ids, the longest first."""
    input_ids = np.full((len(rows), len(rows[0])), encoder.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    states = encoder.module(
        input_ids=torch.from_numpy(input_ids).to(encoder.device),
        attention_mask=torch.from_numpy(mask).to(encoder.device),
    ).last_hidden_state  # [M, T, D]
    return states.float().cpu().numpy()
