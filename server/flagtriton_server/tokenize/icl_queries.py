# SPDX-License-Identifier: Apache-2.0
"""Tokenizes queries with few-shot examples into ragged token ids.

docs/reference-behaviour.md#icl-queries has the rules. A query is cut as tokens and decoded to a text. That text is then
tokenized again between its prefix and suffix. FlagEmbedding does the same, and bge-en-icl was trained on such inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.tensors import TensorSpec
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer, ragged
from flagtriton_server.tokenize.truncation import UNBOUNDED, TextSize, TextTooLongError

__all__ = ["QueryBatch", "encode_queries"]


@dataclass(frozen=True)
class QueryBatch:
    """The queries of one request.

    Attributes:
        texts: B queries with their instructions.
        prefix: the text of the examples, the same before every query.
        suffix: the text after every query.
        max_length: largest number of tokens of a query with its instruction, its suffix and the special tokens.
        most: largest number of tokens of a query and the prefix together, as the deployment allows. Queries are cut to
            this limit, too.
        refuse_longer: a longer query is an error and is not cut.
        size: limit on the part of each query that may be tokenized.
    """

    texts: list[str]
    prefix: str
    suffix: str
    max_length: int
    most: int
    refuse_longer: bool = False
    size: TextSize = UNBOUNDED


def encode_queries(tokenizer: TextTokenizer, batch: QueryBatch) -> dict[TensorSpec, NDArray[np.int32]]:
    """Return `input_ids` `[B, T]` and `token_count` `[B, 1]`, int32.

    Raises:
        RequestError: the suffix or the prefix leaves a query no room; the message names it and gives the lengths. Or a
            query is too long and must not be cut.
    """
    prefix_length, suffix_length = tokenizer.bare_count(batch.prefix), tokenizer.bare_count(batch.suffix)
    kept = _cut_queries(tokenizer, batch, prefix_length)
    prompts = [batch.prefix + text + batch.suffix for text in tokenizer.texts_of(kept)]
    rows = _prompt_ids(tokenizer, prompts)
    room = min((prefix_length + suffix_length + batch.max_length + 8) // 8 * 8 + 8, batch.most)
    if batch.refuse_longer:
        for index, row in enumerate(rows):
            if len(row) + tokenizer.special_count > room:
                raise _too_long(index, batch.max_length)
    return ragged([tokenizer.with_special_tokens(row, room) for row in rows])


def _cut_queries(tokenizer: TextTokenizer, batch: QueryBatch, prefix_length: int) -> list[list[int]]:
    """Return the tokens of each query, cut to leave room for the prefix, the suffix and the special tokens.

    FlagEmbedding counts the special tokens as the texts `<s>` and `</s>`, even if the tokenizer splits these texts.
    FlagEmbedding has no limit for prefix and query together.
    """
    beside = tokenizer.bare_count("<s>") + tokenizer.bare_count(batch.suffix + "</s>")
    if batch.max_length < beside:
        raise RequestError(
            f"max_length is {batch.max_length}, but the suffix and the special tokens are {beside}; send a greater one"
        )
    if prefix_length + beside >= batch.most:
        raise RequestError(
            f"the examples' prefix has {prefix_length} tokens, and the suffix and the special tokens are {beside}; "
            f"this deployment takes {batch.most} in all: send fewer examples, or add it again with a greater "
            "--max-length"
        )
    most = min(batch.max_length, batch.most - prefix_length)
    try:
        rows = tokenizer.bare_ids(batch.texts, most - beside, batch.size)
    except TextTooLongError as error:
        raise error.refusal("text") from error
    if batch.refuse_longer:
        for index, row in enumerate(rows):
            if len(row) > most - beside:
                raise _too_long(index, most)
    return [tokenizer.cut(row, most - beside) for row in rows]


def _prompt_ids(tokenizer: TextTokenizer, prompts: list[str]) -> list[list[int]]:
    """Return the tokens of each prompt.

    A common beginning is tokenized once, up to the last place that cannot change its tokens.
    """
    place, shared = tokenizer.shared_head(_common_head(prompts)) if len(prompts) > 1 else (0, [])
    return [shared + ids for ids in tokenizer.bare_ids([prompt[place:] for prompt in prompts])]


def _common_head(prompts: list[str]) -> str:
    first, last = min(prompts), max(prompts)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def _too_long(index: int, max_length: int) -> RequestError:
    return RequestError(
        f"query {index} has more than {max_length} tokens and truncate=NONE; "
        "shorten it, raise its max_length, send fewer examples, or send truncate=END"
    )
