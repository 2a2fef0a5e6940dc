# SPDX-License-Identifier: Apache-2.0
"""Pairs of texts, of which each distinct text is tokenised and encoded once a request. Imports no torch.

One query beside 200 passages is the common case: its tokens stand in the first of the 200 rows, the other 199 have
none and name that row. So nothing behind the tokenizer needs to compare texts, and rows keep their places.
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
    """One side of a request's pairs.

    Attributes:
        texts: the distinct ones, in the order of their first occurrence.
        first_rows: where each of them occurred first.
        rows: `[P]` for every pair, the row of its text's first occurrence.
    """

    texts: list[str]
    first_rows: list[int]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Sequence[str]) -> DistinctTexts:
        """Return them for the texts of one side, P of them."""
        first: dict[str, int] = {}
        rows = [first.setdefault(text, row) for row, text in enumerate(texts)]
        return cls(list(first), list(first.values()), np.array(rows, dtype=np.int32))

    def spread(self, input_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return `[P, T]` token ids, for those of the distinct texts, `[U, T]`; repeated texts have none."""
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
        """The distinct queries and the distinct passages, to be tokenised."""
        options, refuse = self.options, self.options.truncate == "NONE"
        query_length = options.query_max_length or self.max_length
        passage_length = options.passage_max_length or self.max_length
        return [
            TextBatch(self.queries.texts, query_length, refuse, "query", size=self.size),
            TextBatch(self.passages.texts, passage_length, refuse, "passage", size=self.size),
        ]

    def refusal(self, side: int, error: RequestError) -> RequestError:
        """Return an error about one of the distinct texts of a side, 0 or 1, as one about its first pair."""
        distinct = (self.queries, self.passages)[side]
        return RequestError(with_rows(str(error), distinct.first_rows), error.code)

    def answer(
        self, queries: dict[TensorSpec, NDArray[Any]], passages: dict[TensorSpec, NDArray[Any]]
    ) -> dict[TensorSpec, Any]:
        """Return the ids of both sides, and the row where each pair's are, for what `text_batches` became."""
        return {
            QUERY_IDS: self.queries.spread(queries[INPUT_IDS]),
            PASSAGE_IDS: self.passages.spread(passages[INPUT_IDS]),
            QUERY_ROWS: self.queries.rows[:, None],
            PASSAGE_ROWS: self.passages.rows[:, None],
        }
