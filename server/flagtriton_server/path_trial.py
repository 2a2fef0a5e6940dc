# SPDX-License-Identifier: Apache-2.0
"""Does a model give the same answers for texts that lie end to end as for each by itself? Tried once, at load."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flagtriton_server.forward import LoadedEncoder, forward

__all__ = ["agree", "trial_answers"]

_LENGTHS = np.array([13, 7, 7, 3], dtype=np.int64)
_LEAST_COSINE = 0.99999
_LEAST_COSINE_HALF = 0.99
"""Rounding alone keeps a token's vector above these; a text that sees its neighbour falls far below."""


@torch.inference_mode()
def trial_answers(encoder: LoadedEncoder) -> Tensor:
    """Return `[N, D]` hidden states of a few short texts: packed together, or one by one where the encoder pads."""
    generator = np.random.default_rng(0)
    input_ids = generator.integers(0, encoder.vocab_size, int(_LENGTHS.sum()))
    if encoder.packed:
        return forward(encoder, input_ids, _LENGTHS).float()
    texts = np.split(input_ids, np.cumsum(_LENGTHS)[:-1])
    return torch.cat([forward(encoder, text, np.array([len(text)])) for text in texts]).float()


def agree(expected: Tensor, answers: Tensor, computed: torch.dtype) -> bool:
    """Return whether every token's two vectors, `[N, D]` float32, point the same way up to rounding in `computed`."""
    least = functional.cosine_similarity(expected, answers, dim=-1).min().item()
    return least >= (_LEAST_COSINE if computed == torch.float32 else _LEAST_COSINE_HALF)
