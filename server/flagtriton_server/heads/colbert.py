# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's ColBERT output: one vector for every token of a text except the first. Independent of requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton_server.engines.pooling import truncate_and_normalize
from flagtriton_server.errors import RequestError
from flagtriton_server.heads.linear import Head

__all__ = ["colbert_lengths", "colbert_vectors", "padded_vectors"]

_MOST_BYTES = 2**31 - 1
"""Limit of one gRPC message, bytes."""


def colbert_lengths(token_counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of vectors of each text, `[B]`: one fewer than tokens. The last special token has a vector."""
    return np.maximum(token_counts - 1, 0)


def colbert_vectors(states: Tensor, token_counts: NDArray[np.int64], head: Head, options: EmbedOptions) -> Tensor:
    """Return W h + b of every token except each text's first, truncated and normalized as `options` ask.

    The formula is that of docs/reference-behaviour.md#m3-vectors.

    Args:
        states: `[N, D]` hidden states, text by text.
        token_counts: `[B]` tokens of each text; N in total.
        head: W `[C, D]` and b.
        options: `truncate_dim` and `normalize`.

    Returns:
        `[N', C']` float32 on the head's device, text by text; N' is the sum of `colbert_lengths`.
    """
    starts = np.cumsum(token_counts) - token_counts
    kept = np.ones(len(states), dtype=np.bool_)
    kept[starts[token_counts > 0]] = False
    return truncate_and_normalize(head(states[torch.from_numpy(kept)]), options)


def padded_vectors(vectors: NDArray[Any], lengths: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `[B, L, C]`, with zeros after a text's last vector. L is that of the longest text, at least 1.

    Args:
        vectors: `[N', C]`, text by text.
        lengths: `[B]` number of vectors of each text; N' in total.
        dtype: dtype of the result.

    Raises:
        RequestError: the result does not fit into one reply, or a vector does not fit into the dtype.
    """
    shape = (len(lengths), max(1, int(lengths.max(initial=0))), vectors.shape[1])
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size > _MOST_BYTES:
        raise RequestError(
            f"colbert_vecs would be {list(shape)} {dtype}, {size >> 20} MiB; one reply holds {_MOST_BYTES >> 20}: "
            "send fewer texts in a request, texts of like length together, or a smaller max_length"
        )
    _check_range(vectors, dtype)
    padded = np.zeros(shape, dtype=dtype)
    padded[np.arange(shape[1]) < lengths[:, None]] = vectors
    return padded


def _check_range(vectors: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Raise for components that are too large for the wire's dtype; unit vectors have none."""
    if dtype == vectors.dtype or not vectors.size:
        return
    greatest, most = max(float(vectors.max()), -float(vectors.min())), float(np.finfo(dtype).max)
    if greatest > most:
        raise RequestError(
            f"components of colbert_vecs reach {greatest:.0f}, and {dtype} ends at {most:.0f}; ask for normalize=true, "
            "or for colbert_dtype=fp32",
            "INTERNAL",
        )
