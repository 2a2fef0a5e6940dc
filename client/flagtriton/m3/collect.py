# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's replies, put together in the order of the texts and in FlagEmbedding's form. Knows no server."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from flagtriton.m3.output import M3Output
from flagtriton.protocol.tensors import (
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DENSE_VECS,
    PAST_END,
    SCORES,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    Tensor,
)
from flagtriton.remote.pool import Rows
from flagtriton.transport.base import InferenceReply
from flagtriton.types import ColBERTVectors, SparseWeights

__all__ = ["CollectedOutputs", "CollectedScores"]


class CollectedOutputs:
    """The chosen outputs of B texts, filled reply by reply.

    Args:
        count: B.
        dense: whether dense vectors are wanted; likewise `sparse` and `colbert`.
    """

    def __init__(self, count: int, *, dense: bool, sparse: bool, colbert: bool) -> None:
        self._count = count
        self._dense_wanted = dense
        self._dense: NDArray[np.float32] | None = None
        self._sparse: list[SparseWeights] | None = [defaultdict(int) for _ in range(count)] if sparse else None
        self._colbert: list[ColBERTVectors] | None = [np.empty((0, 0), np.float32)] * count if colbert else None

    @property
    def tensors(self) -> list[Tensor]:
        """What has to be asked for."""
        wanted = [DENSE_VECS] if self._dense_wanted else []
        wanted += [] if self._sparse is None else [SPARSE_IDS, SPARSE_WEIGHTS]
        return wanted + ([] if self._colbert is None else [COLBERT_VECS, COLBERT_LENGTHS])

    def add(self, rows: Rows, reply: InferenceReply) -> None:
        """Put a reply's rows where their texts stand."""
        if self._dense_wanted:
            vectors = reply[DENSE_VECS.name]
            if self._dense is None:
                self._dense = np.empty((self._count, vectors.shape[1]), np.float32)
            self._dense[rows] = vectors
        if self._sparse is not None:
            for row, weights in zip(rows, _lexical_weights(reply), strict=True):
                self._sparse[row] = weights
        if self._colbert is not None:
            vectors, lengths = reply[COLBERT_VECS.name], reply[COLBERT_LENGTHS.name][:, 0]
            for row, own, length in zip(rows, vectors, lengths, strict=True):
                self._colbert[row] = own[:length].astype(np.float32)  # a copy, so that the reply can go

    def output(self, count: int, *, single: bool) -> M3Output:
        """Return the outputs of the first `count` texts, or of the lone one without lists."""
        listed = {"dense_vecs": self._dense, "lexical_weights": self._sparse, "colbert_vecs": self._colbert}
        kept = 0 if single else slice(count)
        return M3Output({name: None if values is None else values[kept] for name, values in listed.items()})


class CollectedScores:
    """The five scores of P pairs, filled reply by reply."""

    def __init__(self, count: int) -> None:
        self._scores = {name: np.empty(count, np.float32) for name in SCORES}

    def add(self, rows: Rows, reply: InferenceReply) -> None:
        """Put a reply's scores where their pairs stand."""
        for name, tensor in SCORES.items():
            self._scores[name][rows] = reply[tensor.name][:, 0]

    def lists(self) -> dict[str, list[float]]:
        """Return the scores by FlagEmbedding's names."""
        return {name: values.tolist() for name, values in self._scores.items()}


def _lexical_weights(reply: InferenceReply) -> list[SparseWeights]:
    ids, weights = reply[SPARSE_IDS.name], reply[SPARSE_WEIGHTS.name]
    counts = (ids != PAST_END).sum(axis=1).tolist()
    return [
        defaultdict(int, zip(map(str, own_ids[:count]), own_weights[:count], strict=True))
        for own_ids, own_weights, count in zip(ids.tolist(), weights, counts, strict=True)
    ]
