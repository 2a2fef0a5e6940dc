# SPDX-License-Identifier: Apache-2.0
"""Does a model give the same answers for texts that lie end to end as for each by itself? Tried once, at load.

And for texts that are padded, where it knows no other way, and for those that share a prefix, where it allows that.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flagtriton_server.engines.base import LoadedEncoder, forward

__all__ = ["agree", "one_answer", "padded_answers", "trial_answers"]

_LENGTHS = np.array([13, 7, 7, 3], dtype=np.int64)
_SHARED = 2
_LEAST_COSINE = 0.99999
_LEAST_COSINE_HALF = 0.99
"""Rounding alone keeps a token's vector above these; a text that sees its neighbour falls far below."""


@torch.inference_mode()
def trial_answers(encoder: LoadedEncoder, *, shared: bool = False) -> Tensor:
    """Return `[N, D]` float32 hidden states of a few short texts: packed together, or one by one for one that pads.

    Args:
        encoder: to be tried.
        shared: the texts share their first tokens, which are computed once.
    """
    texts = _texts(encoder)
    if shared:
        return _behind_their_prefix(encoder, texts)
    if encoder.packed:
        return forward(encoder, np.concatenate(texts), _LENGTHS).float()
    return torch.cat([forward(encoder, text, np.array([len(text)])) for text in texts]).float()


@torch.inference_mode()
def padded_answers(encoder: LoadedEncoder) -> Tensor:
    """Return what `trial_answers` does, of the same texts, padded to the longest."""
    return forward(encoder, np.concatenate(_texts(encoder)), _LENGTHS).float()


def _texts(encoder: LoadedEncoder) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    texts = np.split(generator.integers(0, encoder.vocab_size, int(_LENGTHS.sum())), np.cumsum(_LENGTHS)[:-1])
    for text in texts[1:]:
        text[:_SHARED] = texts[0][:_SHARED]
    return texts


@torch.inference_mode()
def one_answer(encoder: LoadedEncoder) -> Tensor:
    """Return `[T, D]` float32 hidden states of one short text by itself."""
    text = np.random.default_rng(0).integers(0, encoder.vocab_size, int(_LENGTHS[0]))
    return forward(encoder, text, _LENGTHS[:1]).float()


def _behind_their_prefix(encoder: LoadedEncoder, texts: list[NDArray[np.int64]]) -> Tensor:
    segments = [texts[0][:_SHARED], *(text[_SHARED:] for text in texts)]
    lengths = np.array([len(segment) for segment in segments])
    parents = np.array([-1] + [0] * len(texts))
    prefix, *rests = forward(encoder, np.concatenate(segments), lengths, parents).float().split(lengths.tolist())
    return torch.cat([torch.cat([prefix, rest]) for rest in rests])


def agree(expected: Tensor, answers: Tensor, computed: torch.dtype) -> bool:
    """Return whether every token's two vectors, `[N, D]` float32, point the same way up to rounding in `computed`."""
    least = functional.cosine_similarity(expected, answers, dim=-1).min().item()
    return least >= (_LEAST_COSINE if computed == torch.float32 else _LEAST_COSINE_HALF)
