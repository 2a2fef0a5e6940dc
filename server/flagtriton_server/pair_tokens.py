# SPDX-License-Identifier: Apache-2.0
"""Pairs of query and passage to one row of token ids each, joined as ids; `flagembedding-behaviour.md` §10.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol import PASSAGE_START, Tensor
from flagtriton_server.rejection import RequestError
from flagtriton_server.tokenization import TextTokenizer, ragged

__all__ = ["RerankBatch", "distinct_ids", "encode_pairs"]


@dataclass(frozen=True)
class RerankBatch:
    """The pairs of one request.

    Attributes:
        queries: P of them.
        passages: likewise.
        query_max_length: tokens kept of a query.
        max_length: tokens of a pair, special tokens included.
        refuse_longer: what would be cut is an error.
    """

    queries: list[str]
    passages: list[str]
    query_max_length: int
    max_length: int
    refuse_longer: bool = False


def encode_pairs(tokenizer: TextTokenizer, batch: RerankBatch) -> dict[Tensor, NDArray[np.int32]]:
    """Return `input_ids` `[P, T]`, `token_count` `[P, 1]` and `passage_start` `[P, 1]`, int32.

    A query that repeats is tokenised once.

    Raises:
        RequestError: a query leaves its passage no room, or a text would be cut that must not be.
    """
    before, between, after = tokenizer.pair_marks
    marks = len(before) + len(between) + len(after)
    queries, passages = distinct_ids(tokenizer, batch.queries), tokenizer.bare_ids(batch.passages)
    rows, starts = [], []
    for index, (whole_query, whole_passage) in enumerate(zip(queries, passages, strict=True)):
        query = tokenizer.cut(whole_query, batch.query_max_length)
        room = batch.max_length - marks - len(query)
        if (room < 1 and whole_passage) or room < 0:
            raise RequestError(
                f"query {index} has {len(query)} tokens, which with {marks} special ones leave its passage none of "
                f"{batch.max_length}; send a smaller query_max_length, or a greater max_length"
            )
        passage = tokenizer.cut(whole_passage, room)
        if batch.refuse_longer and (len(query) < len(whole_query) or len(passage) < len(whole_passage)):
            raise RequestError(
                f"pair {index} has {len(whole_query)} and {len(whole_passage)} tokens and {marks} special ones, more "
                f"than query_max_length {batch.query_max_length} or max_length {batch.max_length} allow, and "
                "truncate=NONE; shorten it, raise them, or send truncate=END"
            )
        rows.append([*before, *query, *between, *passage, *after])
        starts.append(len(before) + len(query) + len(between))
    return {**ragged(rows), PASSAGE_START: np.array(starts, dtype=np.int32)[:, None]}


def distinct_ids(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return each text's tokens, without special ones; a text that repeats is tokenised once."""
    distinct = list(dict.fromkeys(texts))
    ids = dict(zip(distinct, tokenizer.bare_ids(distinct), strict=True))
    return [ids[text] for text in texts]
