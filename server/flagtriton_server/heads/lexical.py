# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's sparse output: a weight for each distinct token of a text. Memory grows with tokens, not the vocabulary.

The weight of a token is relu(w · h + b). The weight of a token id in a text is the maximum over the tokens with that id
(docs/reference-behaviour.md#m3-vectors and #m3-encode, after BGE M3-Embedding, arXiv 2402.03216, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.protocol.tensors import NO_TOKEN
from flagtriton_server.engines.finite import check_finite
from flagtriton_server.heads.linear import Head

__all__ = ["LexicalWeights", "lexical_weights", "token_weights"]


@dataclass(frozen=True)
class LexicalWeights:
    """The weights of some texts, text by text; S weights in total.

    Attributes:
        texts: `[S]` index of the text to which each weight belongs, ascending.
        ids: `[S]` token ids, each once for a text, in the order of their first occurrence.
        weights: `[S]` float32, above 0.
    """

    texts: NDArray[np.int64]
    ids: NDArray[np.int64]
    weights: NDArray[np.float32]

    def padded(self, text_count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return ids and weights as `[B, S']`, filled up with `NO_TOKEN` and 0; S' is at least 1."""
        counts = np.bincount(self.texts, minlength=text_count)
        own = np.arange(max(1, counts.max(initial=0))) < counts[:, None]  # [B, S']
        ids = np.full(own.shape, NO_TOKEN, dtype=np.int32)
        weights = np.zeros(own.shape, dtype=np.float32)
        ids[own], weights[own] = self.ids, self.weights
        return ids, weights


def token_weights(states: Tensor, head: Head) -> NDArray[np.float32]:
    """Return relu(w · h + b) of every token, `[N]`, for hidden states `[N, D]`.

    Raises:
        NotFiniteError: w · h + b is not finite for a token, even if relu would hide it.
    """
    logits = head(states).squeeze(-1).float()
    check_finite(logits, "lexical weights")
    weights: NDArray[np.float32] = logits.relu().cpu().numpy()
    return weights


def lexical_weights(
    input_ids: NDArray[np.int32], weights: NDArray[np.float32], unweighted: NDArray[np.int32]
) -> LexicalWeights:
    """Return the maximum weight of each token id of every text.

    Args:
        input_ids: `[B, T]`, `NO_TOKEN` after a row's tokens; N tokens in total.
        weights: `[N]` weights of these tokens, text by text.
        unweighted: ids that are left out: those of some special tokens.
    """
    texts, columns = np.nonzero(input_ids != NO_TOKEN)  # [N] each
    ids = input_ids[texts, columns].astype(np.int64)
    kept = (weights > 0) & ~np.isin(ids, unweighted)
    texts, ids, weights = texts[kept], ids[kept], weights[kept]
    keys = texts * (int(ids.max(initial=0)) + 1) + ids
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    greatest = np.zeros(len(first), dtype=np.float32)
    np.maximum.at(greatest, which, weights)
    order = np.argsort(first)
    return LexicalWeights(texts[first[order]], ids[first[order]], greatest[order])
