# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's five scores of pairs (docs/reference-behaviour.md#m3-scores). Independent of requests.

Every pair is scored alone: neither its score nor the memory that it takes depends on the other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flagtriton.protocol.tensors import (
    COLBERT_SCORE,
    COLBERT_SPARSE_DENSE_SCORE,
    DENSE_SCORE,
    SPARSE_DENSE_SCORE,
    SPARSE_SCORE,
    TensorSpec,
)
from flagtriton_server.heads.lexical import LexicalWeights

__all__ = ["EncodedSide", "five_scores"]


@dataclass(frozen=True)
class EncodedSide:
    """The queries, or the passages, of P pairs: U distinct texts in the order of their rows.

    Attributes:
        texts: `[P]` index of each pair's text among the distinct texts.
        dense: `[U, D]` float32.
        lexical: lexical weights of the distinct texts.
        colbert: `[L, C]` float32 for each text, all on one device.
    """

    texts: NDArray[np.int64]
    dense: NDArray[np.float32]
    lexical: LexicalWeights
    colbert: list[Tensor]


def five_scores(
    queries: EncodedSide, passages: EncodedSide, weights: tuple[float, float, float]
) -> dict[TensorSpec, NDArray[np.float32]]:
    """Return each of the five scores, `[P]` float32.

    Args:
        queries: the queries of P pairs.
        passages: the passages of the same pairs.
        weights: weights of the dense, the sparse and the ColBERT score in the means. A mean whose weights are all 0
            is 0.
    """
    dense = np.einsum("pd,pd->p", queries.dense[queries.texts], passages.dense[passages.texts]).astype(np.float64)
    sparse = _sparse_scores(queries, passages)
    colbert = _colbert_scores(queries, passages)
    for_dense, for_sparse, for_colbert = (weight / max(weights) for weight in weights)
    both = for_dense * dense + for_sparse * sparse
    scores = {
        DENSE_SCORE: dense,
        SPARSE_SCORE: sparse,
        COLBERT_SCORE: colbert,
        SPARSE_DENSE_SCORE: both / ((for_dense + for_sparse) or 1.0),
        COLBERT_SPARSE_DENSE_SCORE: (both + for_colbert * colbert) / (for_dense + for_sparse + for_colbert),
    }
    return {spec: score.astype(np.float32) for spec, score in scores.items()}


def _sparse_scores(queries: EncodedSide, passages: EncodedSide) -> NDArray[np.float64]:
    """Return `[P]`: the sum over shared token ids of the product of both weights."""
    query, passage = (_weights_by_text(side) for side in (queries, passages))
    scores = np.empty(len(queries.texts))
    for pair, (q, p) in enumerate(zip(queries.texts, passages.texts, strict=True)):
        _, mine, theirs = np.intersect1d(query[q][0], passage[p][0], assume_unique=True, return_indices=True)
        scores[pair] = query[q][1][mine] @ passage[p][1][theirs]
    return scores


def _weights_by_text(side: EncodedSide) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    ends = np.searchsorted(side.lexical.texts, np.arange(1, len(side.dense)))
    return list(zip(np.split(side.lexical.ids, ends), np.split(side.lexical.weights, ends), strict=True))


def _colbert_scores(queries: EncodedSide, passages: EncodedSide) -> NDArray[np.float64]:
    """Return `[P]`: the mean over the query vectors of the greatest product of each with a passage vector."""
    pairs = zip(queries.texts, passages.texts, strict=True)
    scores = torch.stack([_late_interaction(queries.colbert[q], passages.colbert[p]) for q, p in pairs])
    return scores.double().cpu().numpy()


def _late_interaction(query: Tensor, passage: Tensor) -> Tensor:
    if not len(query) or not len(passage):
        return query.new_zeros(())
    return (query @ passage.T).amax(dim=1).mean()
