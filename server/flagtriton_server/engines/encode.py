# SPDX-License-Identifier: Apache-2.0
"""From ragged token ids to token vectors: the texts of all requests, in micro-batches under one token budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.protocol.tensors import NO_TOKEN
from flagtriton_server.engines.base import LoadedEncoder, forward
from flagtriton_server.engines.pooling import Pooling, cls_pool, last_token_pool
from flagtriton_server.errors import RequestError
from flagtriton_server.packing.micro_batches import RaggedTexts
from flagtriton_server.packing.ragged import plan_micro_batches, token_indices

__all__ = ["check_token_ids", "encode", "encode_pooled"]


def check_token_ids(input_ids: NDArray[np.int32], vocab_size: int, max_length: int) -> None:
    """Reject token ids that would make the module read outside its tables.

    Args:
        input_ids: `[B, T]`, `NO_TOKEN` after each row's tokens.
        vocab_size: upper bound of ids, which must be below it.
        max_length: greatest T.

    Raises:
        RequestError: a limit is exceeded, or `NO_TOKEN` stands between tokens; the message names the limit.
    """
    if input_ids.shape[1] > max_length:
        raise RequestError(f"input_ids has {input_ids.shape[1]} tokens a row; this model takes {max_length}")
    if ((input_ids[:, :-1] == NO_TOKEN) & (input_ids[:, 1:] != NO_TOKEN)).any():
        raise RequestError(f"input_ids has {NO_TOKEN} between tokens; it fills rows up behind their last token only")
    if input_ids.size and not (input_ids.min() >= NO_TOKEN and input_ids.max() < vocab_size):
        raise RequestError(
            f"input_ids runs from {input_ids.min()} to {input_ids.max()}; expected 0 to {vocab_size - 1}, "
            f"and {NO_TOKEN} behind a row's last token"
        )


@torch.inference_mode()
def encode(
    encoder: LoadedEncoder,
    requests: Sequence[NDArray[np.int32]],
    token_budget: int,
) -> list[Tensor]:
    """Return every request's last hidden states, `[B, R, D]` on the processor, in the encoder's dtype.

    The vectors of a request's texts lie end to end in its B times R rows. R is the smallest number, at least 1, for
    which they fit.

    Args:
        encoder: the module and its limits.
        requests: `[B, T]` token ids of each request, `NO_TOKEN` after a row's tokens; B and T differ by request.
        token_budget: tokens of one forward pass.
    """
    texts = RaggedTexts.of(requests)
    heights = [max(1, -(-int(part.sum()) // len(part))) for part in texts.by_request(texts.lengths)]  # R of each
    sizes = [height * rows for height, rows in zip(heights, texts.row_counts, strict=True)]
    places = np.concatenate(
        [
            start + np.cumsum(part) - part
            for start, part in zip(np.cumsum(sizes) - sizes, texts.by_request(texts.lengths), strict=True)
        ]
    )
    states = torch.zeros(sum(sizes), encoder.hidden_size, dtype=encoder.precision.computed, device=encoder.device)
    for batch in plan_micro_batches(texts.lengths, token_budget, padded=not encoder.packed):
        rows = token_indices(places[batch], texts.lengths[batch])
        states[torch.from_numpy(rows).to(encoder.device)] = forward(encoder, texts.tokens(batch), texts.lengths[batch])
    parts = states.cpu().split(sizes)
    return [part.unflatten(0, (-1, height)) for part, height in zip(parts, heights, strict=True)]


@torch.inference_mode()
def encode_pooled(
    encoder: LoadedEncoder,
    requests: Sequence[NDArray[np.int32]],
    token_budget: int,
    pool: Pooling,
    second_parts: Sequence[NDArray[np.int32]] | None = None,
    prompt_lengths: Sequence[NDArray[np.int32]] | None = None,
) -> list[Tensor]:
    """Return one vector for each text, `[B, D']` on the processor for every request. No other row leaves a pass.

    Args:
        encoder: the module and its limits.
        requests: as for `encode`.
        token_budget: as for `encode`.
        pool: pooling that reduces the vectors of a text to one.
        second_parts: `[B, 1]` index of the first token of each text's second part, which has a different token type;
            None is one part.
        prompt_lengths: `[B, 1]` number of each text's first tokens that are not pooled; None pools all.

    D' is D, or a multiple of D if `pool` joins several poolings.
    """
    texts = RaggedTexts.of(requests)
    token_types = None if second_parts is None else texts.types(np.concatenate(second_parts).reshape(-1))
    skipped = None if prompt_lengths is None else np.concatenate(prompt_lengths).reshape(-1)
    exact = pool not in (cls_pool, last_token_pool) or encoder.scores
    dtype = torch.float32 if exact else encoder.precision.computed
    width = pool(torch.zeros(0, encoder.hidden_size), torch.zeros(0, dtype=torch.int64)).shape[1]
    vectors = torch.zeros(len(texts.lengths), width, dtype=dtype, device=encoder.device)
    longest = encoder.max_shared_length if pool is last_token_pool else 0  # other poolings also read the prefix
    for batch in texts.segments(token_budget, max_shared_length=longest, padded=not encoder.packed):
        places = token_indices(batch.starts, batch.lengths)
        types = None if token_types is None else token_types[places]
        states = forward(encoder, texts.input_ids[places], batch.lengths, batch.parents, types)
        left_out = None if skipped is None else torch.from_numpy(skipped[batch.rows]).to(encoder.device)
        pooled = pool(states, torch.from_numpy(batch.lengths).to(encoder.device), left_out)
        own = np.flatnonzero(batch.rows >= 0)  # the others are prefixes
        rows, segments = (torch.from_numpy(index).to(encoder.device) for index in (batch.rows[own], own))
        vectors[rows] = pooled[segments]
    return list(vectors.cpu().split(texts.row_counts))
