# SPDX-License-Identifier: Apache-2.0
"""Joins query, passage and prompt into one row of token ids, as an LLM reranker reads them.

docs/reference-behaviour.md#llm-reranker-pairs has the order: a beginning-of-text token, the query, a line break, the
passage, a line break, the prompt. Each part is tokenized separately.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.model_classes import RerankerModelClass
from flagtriton.protocol.tensors import PASSAGE_END, PASSAGE_START, TensorSpec
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.cross_encoder_inputs import RerankBatch, ids_of_both, told
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer, ragged

__all__ = ["PromptedBatch", "encode_prompted_pairs", "first_ids"]

_LINE_BREAK = "\n"


@dataclass(frozen=True)
class PromptedBatch(RerankBatch):
    """The pairs of one request, and the prompt that asks about each.

    `max_length` limits the passage. All tokens before the second line break together may exceed `max_length` by the
    number of tokens of that line break and the prompt.

    Attributes:
        prompt: question after each pair; may be empty.
        first: tokens before each query: the beginning-of-text token, or none.
        most: largest number of tokens of a whole row, the prompt included.
    """

    prompt: str = ""
    first: tuple[int, ...] = ()
    most: int = 0


def first_ids(tokenizer: TextTokenizer, model_class: str, checkpoint: str) -> tuple[int, ...]:
    """Return the tokens that a model class puts before each query.

    Raises:
        ValueError: the class needs a beginning-of-text token, and the tokenizer has none.
    """
    bos = tokenizer.bos_id
    if model_class == RerankerModelClass.DECODER_ONLY_BASE:
        return () if bos is None or bos == tokenizer.pad_id else (bos,)
    if bos is None:
        raise ValueError(f"the tokenizer of {checkpoint} has no beginning-of-text token, which {model_class} needs")
    return (bos,)


def encode_prompted_pairs(tokenizer: TextTokenizer, batch: PromptedBatch) -> dict[TensorSpec, NDArray[np.int32]]:
    """Return `input_ids` `[P, T]`, and `token_count`, `passage_start` and `passage_end`, each `[P, 1]`, all int32.

    A repeated query is tokenized once.

    Raises:
        RequestError: a query leaves its passage no room, or a text is too long and must not be cut.
    """
    line_break, prompt = tokenizer.bare_ids([_LINE_BREAK, batch.prompt])
    tail = [*line_break, *prompt]
    most = min(batch.max_length + len(tail), batch.most - len(tail))  # limit on the tokens before the tail
    rows, starts, ends = [], [], []
    queries, passages = ids_of_both(tokenizer, batch)
    for index, (whole_query, whole_passage) in enumerate(zip(queries, passages, strict=True)):
        query = [*batch.first, *tokenizer.cut(whole_query, batch.query_max_length), *line_break]
        room = most - len(query)
        if (room < 1 and whole_passage) or room < 0:
            raise RequestError(
                f"query {index} takes {len(query)} tokens, which with {len(tail)} of the prompt leave its passage none "
                f"of {most + len(tail)}; send a smaller query_max_length, a greater max_length, or a shorter prompt"
            )
        passage = tokenizer.cut(whole_passage, min(batch.max_length, room))
        if batch.refuse_longer and (len(whole_query) > batch.query_max_length or len(passage) < len(whole_passage)):
            raise RequestError(
                f"pair {index} has {told(whole_query, batch.queries[index], batch.query_max_length)} and "
                f"{told(whole_passage, batch.passages[index], batch.max_length)} tokens, more than the "
                f"{batch.query_max_length} and {min(batch.max_length, room)} that query_max_length, max_length and the "
                "prompt leave them, and truncate=NONE; shorten it, raise the two, or send truncate=END"
            )
        rows.append([*query, *passage, *tail])
        starts.append(len(query))
        ends.append(len(query) + len(passage))
    places = {PASSAGE_START: starts, PASSAGE_END: ends}
    return {**ragged(rows), **{tensor: np.array(of, dtype=np.int32)[:, None] for tensor, of in places.items()}}
