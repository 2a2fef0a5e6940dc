# SPDX-License-Identifier: Apache-2.0
"""`M3Output`, the result of BGE-M3's methods, and scores computed from it. Knows neither server nor torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.options.score import check_weights
from flagtriton.types import ColBERTVectors, SparseWeights

__all__ = [
    "M3Output",
    "as_batch",
    "colbert_score",
    "combined_score",
    "lexical_matching_score",
    "lexical_matching_scores",
    "lexical_scores",
]

_BLOCK_COLUMNS = 4096
"""Shared token ids per matrix product; a block takes 32 MB for 1,000 texts."""


class M3Output(dict[str, Any]):
    """A `dict` with the keys `dense_vecs`, `lexical_weights` and `colbert_vecs`; outputs not asked for are None.

    For a list of B texts the values are `[B, D]` float32, B dicts from token id (`str`) to weight, and B arrays
    `[T - 1, C]` float32. For a single `str` they are one item each.

    An integer or a slice as key returns an `M3Output` of those texts, in the form for a list:
    `output[0]["lexical_weights"][0]` are the weights of the first text.
    """

    def __getitem__(self, key: str | int | slice) -> Any:  # noqa: ANN401 - three kinds of output
        """Return one output by name, or all outputs of some texts by index.

        Raises:
            KeyError: there is no output of that name.
            IndexError: there is no text of that index.
        """
        if isinstance(key, str):
            return super().__getitem__(key)
        batch = {name: as_batch(name, self[name]) for name in self}
        rows = key if isinstance(key, slice) else self._row(key)
        return M3Output({name: None if values is None else values[rows] for name, values in batch.items()})

    @property
    def text_count(self) -> int:
        """Number of texts."""
        return next((len(values) for name in self if (values := as_batch(name, self[name])) is not None), 0)

    def _row(self, index: int) -> slice:
        count = self.text_count
        if not -count <= index < count:
            raise IndexError(f"text {index} of {count}")
        return slice(index % count, index % count + 1)


def as_batch(name: str, values: Any) -> Any:  # noqa: ANN401 - an array, a list, a dict or None
    """Return the output called `name` in the form for a list of texts; a single text's becomes a list of one."""
    if name == "dense_vecs":
        return values[None] if values is not None and values.ndim == 1 else values
    return [values] if isinstance(values, (Mapping, np.ndarray)) else values


def lexical_scores(
    weights_1: SparseWeights | list[SparseWeights], weights_2: SparseWeights | list[SparseWeights]
) -> float | NDArray[np.float64]:
    """Return the lexical score of two texts, or `[B1, B2]` scores of every pair of texts from two lists.

    Raises:
        ValueError: one argument is a text and the other a list.
    """
    if isinstance(weights_1, Mapping) and isinstance(weights_2, Mapping):
        return lexical_matching_score(weights_1, weights_2)
    if isinstance(weights_1, list) and isinstance(weights_2, list):
        scores = lexical_matching_scores(weights_1, weights_2)
        return scores if weights_1 else scores.reshape(0)  # NumPy's shape of an empty list
    raise ValueError("The input format of lexical_weights is not correct.")


def lexical_matching_score(weights_1: SparseWeights, weights_2: SparseWeights) -> float:
    """Return the sum of products of the weights of shared token ids; 0 without shared ids."""
    return sum((float(weight) * float(weights_2[key]) for key, weight in weights_1.items() if key in weights_2), 0)


def lexical_matching_scores(
    weights_1: Sequence[SparseWeights], weights_2: Sequence[SparseWeights]
) -> NDArray[np.float64]:
    """Return `[B1, B2]` lexical scores of every pair of texts from two lists."""
    shared = set(chain.from_iterable(weights_1)) & set(chain.from_iterable(weights_2))
    columns = {key: column for column, key in enumerate(shared)}
    scores = np.zeros((len(weights_1), len(weights_2)))
    sides = [_SharedWeights.of(weights, columns) for weights in (weights_1, weights_2)]
    for start in range(0, len(columns), _BLOCK_COLUMNS):
        left, right = (side.dense(start, min(start + _BLOCK_COLUMNS, len(columns))) for side in sides)
        scores += left @ right.T
    return scores


@dataclass(frozen=True)
class _SharedWeights:
    """Sparse `[B, K]` weights of B texts for the K token ids that both lists share, sorted by column."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, weights: Sequence[SparseWeights], columns: Mapping[str, int]) -> _SharedWeights:
        entries = [
            (columns[key], row, float(weight))
            for row, text in enumerate(weights)
            for key, weight in text.items()
            if key in columns
        ]
        table = np.array(sorted(entries), dtype=np.float64).reshape(-1, 3)
        return cls(table[:, 1].astype(np.int64), table[:, 0].astype(np.int64), table[:, 2], len(weights))

    def dense(self, start: int, end: int) -> NDArray[np.float64]:
        """Return the columns from `start` to `end` as a dense matrix, `[B, end - start]`."""
        entries = slice(*np.searchsorted(self.columns, [start, end]))
        block = np.zeros((self.count, end - start))
        block[self.rows[entries], self.columns[entries] - start] = self.values[entries]
        return block


def colbert_score(q_reps: ColBERTVectors, p_reps: ColBERTVectors) -> np.float32:
    """Return the late-interaction score: the mean over query vectors of the maximal product with a passage vector.

    Args:
        q_reps: `[Lq, C]` float32, the query's ColBERT vectors.
        p_reps: `[Lp, C]` float32, the passage's.

    Raises:
        TypeError: an argument is no array.
    """
    for reps in (q_reps, p_reps):
        if not isinstance(reps, np.ndarray):
            raise TypeError(f"expected np.ndarray (got {type(reps).__name__})")
    return np.float32((q_reps @ p_reps.T).max(axis=1).mean())


def combined_score(query: M3Output, passage: M3Output, weights: Sequence[float] | None = None) -> float:
    """Return the weighted mean of the scores for which both texts have outputs.

    Args:
        query: output of one query.
        passage: output of one passage.
        weights: weights of the dense, the sparse and the ColBERT score; None weighs them equally.

    Raises:
        ValueError: an output is of several texts, the two share none, or the weights of the shared ones are 0.
    """
    dense_weight, sparse_weight, colbert_weight = check_weights((1.0, 1.0, 1.0) if weights is None else weights)
    if (counts := (query.text_count, passage.text_count)) != (1, 1):
        raise ValueError(f"outputs of {counts[0]} and {counts[1]} texts; expected of one each, such as output[0]")
    kinds: dict[str, tuple[float, Callable[..., Any]]] = {
        "dense_vecs": (dense_weight, np.dot),
        "lexical_weights": (sparse_weight, lexical_matching_score),
        "colbert_vecs": (colbert_weight, colbert_score),
    }
    q, p = query[0], passage[0]
    scores = [
        (weight, float(score(q[name][0], p[name][0])))
        for name, (weight, score) in kinds.items()
        if q[name] is not None and p[name] is not None
    ]
    total = sum(weight for weight, _ in scores)
    if not total:
        raise ValueError("the two outputs share none of dense, sparse and ColBERT that has a weight above 0")
    return sum(weight * score for weight, score in scores) / total
