# SPDX-License-Identifier: Apache-2.0
"""What BGE-M3 returns, and the scores that can be computed from it without a server. Knows no server and no torch."""

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
    "colbert_score",
    "combined_score",
    "in_a_list",
    "lexical_matching_score",
    "lexical_matching_scores",
]

_COLUMNS_AT_ONCE = 4096
"""Shared token ids whose weights are multiplied in one matrix product: 32 MB for 1,000 texts."""


class M3Output(dict[str, Any]):
    """A `dict` with the keys `dense_vecs`, `lexical_weights` and `colbert_vecs`; what was not asked for is None.

    For a list of B texts they hold `[B, D]` float32, B dicts from token id (a `str`) to weight, and B arrays
    `[T - 1, C]` float32; for a lone text one of each, without the list.

    An integer or a slice as key gives an `M3Output` of those texts alone, in the form for a list:
    `output[0]["lexical_weights"][0]` are the first text's.
    """

    def __getitem__(self, key: str | int | slice) -> Any:  # noqa: ANN401 - three kinds of output
        """Return one output, or all of them for some texts.

        Raises:
            KeyError: there is no output of that name.
            IndexError: there is no such text.
        """
        if isinstance(key, str):
            return super().__getitem__(key)
        listed = {name: in_a_list(name, self[name]) for name in self}
        rows = key if isinstance(key, slice) else self._row(key)
        return M3Output({name: None if values is None else values[rows] for name, values in listed.items()})

    @property
    def text_count(self) -> int:
        """How many texts these are the outputs of."""
        return next((len(values) for name in self if (values := in_a_list(name, self[name])) is not None), 0)

    def _row(self, index: int) -> slice:
        count = self.text_count
        if not -count <= index < count:
            raise IndexError(f"text {index} of {count}")
        return slice(index % count, index % count + 1)


def in_a_list(name: str, values: Any) -> Any:  # noqa: ANN401 - an array, a list, a dict or None
    """Return one of the three outputs in the form for a list of texts; a lone text's becomes one entry long."""
    if name == "dense_vecs":
        return values[None] if values is not None and values.ndim == 1 else values
    return [values] if isinstance(values, (Mapping, np.ndarray)) else values


def lexical_matching_score(weights_1: SparseWeights, weights_2: SparseWeights) -> float:
    """Return the sum over shared token ids of the product of both weights; 0 where none is shared."""
    return sum((float(weight) * float(weights_2[key]) for key, weight in weights_1.items() if key in weights_2), 0)


def lexical_matching_scores(
    weights_1: Sequence[SparseWeights], weights_2: Sequence[SparseWeights]
) -> NDArray[np.float64]:
    """Return `[B1, B2]` `lexical_matching_score`s of every text of one list with every text of the other."""
    shared = set(chain.from_iterable(weights_1)) & set(chain.from_iterable(weights_2))
    columns = {key: column for column, key in enumerate(shared)}
    scores = np.zeros((len(weights_1), len(weights_2)))
    sides = [_SharedWeights.of(weights, columns) for weights in (weights_1, weights_2)]
    for start in range(0, len(columns), _COLUMNS_AT_ONCE):
        left, right = (side.dense(start, min(start + _COLUMNS_AT_ONCE, len(columns))) for side in sides)
        scores += left @ right.T
    return scores


@dataclass(frozen=True)
class _SharedWeights:
    """The weights of B texts for the token ids that both lists have, sorted by column."""

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
        """Return `[B, end - start]` weights of some columns."""
        own = slice(*np.searchsorted(self.columns, [start, end]))
        block = np.zeros((self.count, end - start))
        block[self.rows[own], self.columns[own] - start] = self.values[own]
        return block


def colbert_score(q_reps: ColBERTVectors, p_reps: ColBERTVectors) -> np.float32:
    """Return the mean over the query's vectors of the greatest product with one of the passage's.

    Args:
        q_reps: `[Lq, C]` float32.
        p_reps: `[Lp, C]` float32.

    Raises:
        TypeError: one of them is no array.
    """
    for reps in (q_reps, p_reps):
        if not isinstance(reps, np.ndarray):
            raise TypeError(f"expected np.ndarray (got {type(reps).__name__})")
    return np.float32((q_reps @ p_reps.T).max(axis=1).mean())


def combined_score(query: M3Output, passage: M3Output, weights: Sequence[float] | None = None) -> float:
    """Return the weighted mean of the scores for which both texts have outputs.

    Args:
        query: of one text.
        passage: of one text.
        weights: of the dense, the sparse and the ColBERT score; None counts them alike.

    Raises:
        ValueError: an output of several texts, none in common, or weights that are all 0 for those in common.
    """
    for_dense, for_sparse, for_colbert = check_weights((1.0, 1.0, 1.0) if weights is None else weights)
    if (counts := (query.text_count, passage.text_count)) != (1, 1):
        raise ValueError(f"outputs of {counts[0]} and {counts[1]} texts; expected of one each, such as output[0]")
    kinds: dict[str, tuple[float, Callable[..., Any]]] = {
        "dense_vecs": (for_dense, np.dot),
        "lexical_weights": (for_sparse, lexical_matching_score),
        "colbert_vecs": (for_colbert, colbert_score),
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
