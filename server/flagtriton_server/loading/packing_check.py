# SPDX-License-Identifier: Apache-2.0
"""The check, once at load, that a model gives texts that lie end to end the same answers as each text alone.

It also covers padded texts if the model supports nothing else, and texts that share a prefix if the model allows that.
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
"""Bounds of the cosine of a token's two vectors. Rounding stays above; a text that sees its neighbour is far below."""


@torch.inference_mode()
def trial_answers(encoder: LoadedEncoder, *, shared: bool = False) -> Tensor:
    """Return `[N, D]` float32 hidden states of a few short texts: packed together, or each alone if the encoder pads.

    Args:
        encoder: the encoder to check.
        shared: whether the texts share their first tokens, which are then computed once.
    """
    texts = _texts(encoder)
    if shared:
        return _behind_their_prefix(encoder, texts)
    if encoder.packed:
        return forward(encoder, np.concatenate(texts), _LENGTHS).float()
    return torch.cat([forward(encoder, text, np.array([len(text)])) for text in texts]).float()


@torch.inference_mode()
def padded_answers(encoder: LoadedEncoder) -> Tensor:
    """Return the same as `trial_answers`, for the same texts, padded to the longest."""
    return forward(encoder, np.concatenate(_texts(encoder)), _LENGTHS).float()


def _texts(encoder: LoadedEncoder) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    texts = np.split(generator.integers(0, encoder.vocab_size, int(_LENGTHS.sum())), np.cumsum(_LENGTHS)[:-1])
    for text in texts[1:]:
        text[:_SHARED] = texts[0][:_SHARED]
    return texts


@torch.inference_mode()
def one_answer(encoder: LoadedEncoder) -> Tensor:
    """Return `[T, D]` float32 hidden states of one short text alone."""
    text = np.random.default_rng(0).integers(0, encoder.vocab_size, int(_LENGTHS[0]))
    return forward(encoder, text, _LENGTHS[:1]).float()


def _behind_their_prefix(encoder: LoadedEncoder, texts: list[NDArray[np.int64]]) -> Tensor:
    segments = [texts[0][:_SHARED], *(text[_SHARED:] for text in texts)]
    lengths = np.array([len(segment) for segment in segments])
    parents = np.array([-1] + [0] * len(texts))
    prefix, *rests = forward(encoder, np.concatenate(segments), lengths, parents).float().split(lengths.tolist())
    return torch.cat([torch.cat([prefix, rest]) for rest in rests])


def agree(expected: Tensor, answers: Tensor, computed: torch.dtype) -> bool:
    """Return whether every token's two vectors, `[N, D]` float32, have one direction up to rounding in `computed`."""
    least = functional.cosine_similarity(expected, answers, dim=-1).min().item()
    return least >= (_LEAST_COSINE if computed == torch.float32 else _LEAST_COSINE_HALF)
