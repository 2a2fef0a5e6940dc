# SPDX-License-Identifier: Apache-2.0
"""Pairs of texts in which each distinct text is tokenized and encoded once per request. Imports no torch.

One query with 200 passages is the common case. The first of the 200 rows has the tokens of the query. The other 199
rows have none and refer to that row. The steps after the tokenizer therefore compare no texts, and every row keeps its
index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.error_positions import with_rows
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.tensors import (
    INPUT_IDS,
    NO_TOKEN,
    PASSAGE_IDS,
    PASSAGE_ROWS,
    QUERY_IDS,
    QUERY_ROWS,
    TensorSpec,
)
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextBatch
from flagtriton_server.tokenize.truncation import UNBOUNDED, TextSize

__all__ = ["DistinctTexts", "PairBatch"]


@dataclass(frozen=True)
class DistinctTexts:
    """One side of the pairs of a request.

    Attributes:
        texts: the distinct texts, in the order of their first occurrence.
        first_rows: row of the first occurrence of each distinct text.
        rows: `[P]` for each pair, the row of the first occurrence of its text.
    """

    texts: list[str]
    first_rows: list[int]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Sequence[str]) -> DistinctTexts:
        """Return the distinct texts among the P texts of one side."""
        first: dict[str, int] = {}
        rows = [first.setdefault(text, row) for row, text in enumerate(texts)]
        return cls(list(first), list(first.values()), np.array(rows, dtype=np.int32))

    def spread(self, input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return `[P, T]` token ids from `[U, T]` ids of the distinct texts; rows of repeated texts hold `NO_TOKEN`."""
        spread = np.full((len(self.rows), input_ids.shape[1]), NO_TOKEN, dtype=np.int32)
        spread[self.first_rows] = input_ids
        return spread


@dataclass(frozen=True)
class PairBatch:
    """The pairs of one request."""

    queries: DistinctTexts
    passages: DistinctTexts
    options: ScoreOptions
    max_length: int
    size: TextSize = UNBOUNDED

    @property
    def text_batches(self) -> list[TextBatch]:
        """The distinct queries and the distinct passages, as two batches to tokenize."""
        options, refuse = self.options, self.options.truncate == "NONE"
        query_length = options.query_max_length or self.max_length
        passage_length = options.passage_max_length or self.max_length
        return [
            TextBatch(self.queries.texts, query_length, refuse, "query", size=self.size),
            TextBatch(self.passages.texts, passage_length, refuse, "passage", size=self.size),
        ]

    def refusal(self, side: int, error: RequestError) -> RequestError:
        """Return an error about a distinct text of a side, 0 or 1, as an error about the first pair with that text."""
        distinct = (self.queries, self.passages)[side]
        return RequestError(with_rows(str(error), distinct.first_rows), error.code)

    def answer(
        self, queries: dict[TensorSpec, NDArray[Any]], passages: dict[TensorSpec, NDArray[Any]]
    ) -> dict[TensorSpec, Any]:
        """Return the ids of both sides, and for each pair the rows that have its ids.

        The arguments are the outputs of the tokenizer for the two batches of `text_batches`.
        """
        return {
            QUERY_IDS: self.queries.spread(queries[INPUT_IDS]),
            PASSAGE_IDS: self.passages.spread(passages[INPUT_IDS]),
            QUERY_ROWS: self.queries.rows[:, None],
            PASSAGE_ROWS: self.passages.rows[:, None],
        }
