# SPDX-License-Identifier: Apache-2.0
"""Collectors of BGE-M3's replies: outputs of texts and scores of pairs, in FlagEmbedding's form. Know no server."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from flagtriton.m3.output import M3Output
from flagtriton.protocol.tensors import (
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DENSE_VECS,
    NO_TOKEN,
    SCORES,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    TensorSpec,
)
from flagtriton.remote.planning import RowCollector, Rows
from flagtriton.transport.base import InferenceReply
from flagtriton.types import ColBERTVectors, SparseWeights

__all__ = ["OutputCollector", "ScoreCollector"]


class OutputCollector:
    """Collects the chosen outputs of texts.

    Args:
        count: B, the number of the caller's texts. For 0 one row is collected, and `result` returns none.
        single: whether the caller passed a single `str`.
        dense: collect dense vectors.
        sparse: collect lexical weights.
        colbert: collect ColBERT vectors.
    """

    def __init__(self, count: int, *, single: bool, dense: bool, sparse: bool, colbert: bool) -> None:
        rows = max(count, 1)
        self._kept = 0 if single else slice(count)
        self._dense = RowCollector(rows, DENSE_VECS) if dense else None
        self._sparse: list[SparseWeights] | None = [defaultdict(int) for _ in range(rows)] if sparse else None
        self._colbert: list[ColBERTVectors] | None = [np.empty((0, 0), np.float32)] * rows if colbert else None

    @property
    def tensors(self) -> list[TensorSpec]:
        """The output tensors that a reply must have."""
        dense = [] if self._dense is None else [DENSE_VECS]
        sparse = [] if self._sparse is None else [SPARSE_IDS, SPARSE_WEIGHTS]
        return dense + sparse + ([] if self._colbert is None else [COLBERT_VECS, COLBERT_LENGTHS])

    def add(self, rows: Rows, reply: InferenceReply) -> None:
        """Copy the outputs of a reply's texts to the caller's rows."""
        if self._dense is not None:
            self._dense.add(rows, reply)
        if self._sparse is not None:
            for row, weights in zip(rows, _lexical_weights(reply), strict=True):
                self._sparse[row] = weights
        if self._colbert is not None:
            vectors, lengths = reply[COLBERT_VECS.name], reply[COLBERT_LENGTHS.name][:, 0]
            for row, padded, length in zip(rows, vectors, lengths, strict=True):
                self._colbert[row] = padded[:length].astype(np.float32)  # a copy, so that the reply can be freed

    def result(self) -> M3Output:
        """Return the outputs: lists for a list of texts, single items for a `str`."""
        dense = None if self._dense is None else self._dense.result()
        outputs = {"dense_vecs": dense, "lexical_weights": self._sparse, "colbert_vecs": self._colbert}
        return M3Output({name: None if values is None else values[self._kept] for name, values in outputs.items()})


class ScoreCollector:
    """Collects the five scores of P pairs.

    Args:
        count: P.
    """

    def __init__(self, count: int) -> None:
        self._scores: dict[str, NDArray[np.float32]] = {name: np.empty(count, np.float32) for name in SCORES}

    def add(self, rows: Rows, reply: InferenceReply) -> None:
        """Copy a reply's scores to the caller's rows."""
        for name, tensor in SCORES.items():
            self._scores[name][rows] = reply[tensor.name][:, 0]

    def result(self) -> dict[str, list[float]]:
        """Return P scores by each of FlagEmbedding's names."""
        return {name: values.tolist() for name, values in self._scores.items()}


def _lexical_weights(reply: InferenceReply) -> list[SparseWeights]:
    ids, weights = reply[SPARSE_IDS.name], reply[SPARSE_WEIGHTS.name]
    counts = (ids != NO_TOKEN).sum(axis=1).tolist()
    return [
        defaultdict(int, zip(map(str, row_ids[:count]), row_weights[:count], strict=True))
        for row_ids, row_weights, count in zip(ids.tolist(), weights, counts, strict=True)
    ]
