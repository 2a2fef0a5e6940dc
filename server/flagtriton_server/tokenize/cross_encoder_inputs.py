# SPDX-License-Identifier: Apache-2.0
"""Joins each pair of query and passage into one row of token ids.

The texts are tokenized separately, and their ids are joined. docs/reference-behaviour.md#encoder-reranker-pairs has the
rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.tensors import PASSAGE_START, TensorSpec
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer, ragged
from flagtriton_server.tokenize.truncation import UNBOUNDED, TextSize, TextTooLongError, window

__all__ = ["RerankBatch", "encode_pairs", "ids_of_both", "told"]


@dataclass(frozen=True)
class RerankBatch:
    """The pairs of one request.

    Attributes:
        queries: P queries.
        passages: P passages.
        query_max_length: largest number of tokens of a query; longer queries are cut.
        max_length: largest number of tokens of a pair, special tokens included.
        refuse_longer: a text that would be cut is an error.
        query_size: limit on the part of a query that may be tokenized.
        passage_size: limit on the part of a passage that may be tokenized.
    """

    queries: list[str]
    passages: list[str]
    query_max_length: int
    max_length: int
    refuse_longer: bool = False
    query_size: TextSize = field(default=UNBOUNDED, kw_only=True)
    passage_size: TextSize = field(default=UNBOUNDED, kw_only=True)


def encode_pairs(tokenizer: TextTokenizer, batch: RerankBatch) -> dict[TensorSpec, NDArray[np.int32]]:
    """Return `input_ids` `[P, T]`, `token_count` `[P, 1]` and `passage_start` `[P, 1]`, int32.

    A repeated query is tokenized once.

    Raises:
        RequestError: a query leaves its passage no room, or a text is too long and must not be cut.
    """
    before, between, after = tokenizer.pair_marks
    marks = len(before) + len(between) + len(after)
    queries, passages = ids_of_both(tokenizer, batch)
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
                f"pair {index} has {told(whole_query, batch.queries[index], batch.query_max_length)} and "
                f"{told(whole_passage, batch.passages[index], batch.max_length)} tokens and {marks} special ones, more "
                f"than query_max_length {batch.query_max_length} or max_length {batch.max_length} allow, and "
                "truncate=NONE; shorten it, raise them, or send truncate=END"
            )
        rows.append([*before, *query, *between, *passage, *after])
        starts.append(len(before) + len(query) + len(between))
    return {**ragged(rows), PASSAGE_START: np.array(starts, dtype=np.int32)[:, None]}


def ids_of_both(tokenizer: TextTokenizer, batch: RerankBatch) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens of each query and of each passage, without special tokens.

    For a long text, only the tokens that remain after the cut are certain to be returned. A repeated query is tokenized
    once.

    Raises:
        RequestError: a text has more bytes than may be tokenized, and it cannot be cut.
    """
    distinct = list(dict.fromkeys(batch.queries))
    try:
        rows = tokenizer.bare_ids(distinct, batch.query_max_length, batch.query_size)
    except TextTooLongError as error:
        raise error.of(batch.queries.index(distinct[error.index])).refusal("query") from error
    try:
        passages = tokenizer.bare_ids(batch.passages, batch.max_length, batch.passage_size)
    except TextTooLongError as error:
        raise error.refusal("passage") from error
    ids = dict(zip(distinct, rows, strict=True))
    return [ids[text] for text in batch.queries], passages


def told(ids: list[int], text: str, at_most: int) -> str:
    """Return the number of tokens of a text for a message.

    A long text with more than `at_most` tokens gives `more than` and that limit, since its tokens are not all counted.
    """
    return str(len(ids)) if len(text) <= window(at_most) or len(ids) <= at_most else f"more than {at_most}"
