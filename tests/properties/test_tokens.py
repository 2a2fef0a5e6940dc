# SPDX-License-Identifier: Apache-2.0
"""Properties of `tokenization`, `pairs`, `pair_tokens`, `prompted_pairs` and `in_context`: the tokens of each alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flagtriton.protocol.tensors import INPUT_IDS, PASSAGE_END, PASSAGE_START, TOKEN_COUNT, TensorSpec
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.cross_encoder_inputs import RerankBatch, encode_pairs
from flagtriton_server.tokenize.distinct_pairs import DistinctTexts
from flagtriton_server.tokenize.icl_queries import QueryBatch, encode_queries
from flagtriton_server.tokenize.llm_reranker_inputs import PromptedBatch, encode_prompted_pairs
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from tests.support.checkpoints.tiny import make_bert, make_decoder

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

TAGS = ("<instruct>", "<query>", "<response>")
PIECE = st.sampled_from(["short", "lazy dog", " ", "\n", "é", "人工", "🙂", "<s>", "</s>", *TAGS]) | st.text(max_size=2)
TEXT = st.lists(PIECE, max_size=5).map("".join)
TEXTS = st.lists(TEXT, min_size=1, max_size=5)
PAIRS = st.lists(st.tuples(st.sampled_from(["", "short", "the lazy dog 🙂"]), TEXT), min_size=1, max_size=5)

Answer: TypeAlias = dict[TensorSpec, NDArray[np.int32]]
Outcome: TypeAlias = list[list[int]] | str
"""Rows of ids, behind which stand the places that came with each; or why a request was refused."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_decoder(tmp_path_factory.mktemp("checkpoints") / "llama", "llama", added=TAGS))


@pytest.fixture(scope="module")
def decoder(folder: str) -> TextTokenizer:
    return TextTokenizer.from_checkpoint(folder, None, False)


@pytest.fixture(scope="module", params=["right", "left"])
def bert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    checkpoint = make_bert(tmp_path_factory.mktemp("checkpoints") / "bert")
    backend = TextTokenizer.from_checkpoint(str(checkpoint), None, False)._backend
    return TextTokenizer(backend, request.param)


def outcome(encode: Callable[[], Answer | RequestError]) -> Outcome:
    try:
        answer = encode()
    except RequestError as error:
        return str(error)
    if isinstance(answer, RequestError):
        return str(answer)
    places = [answer[tensor][:, 0].tolist() for tensor in (PASSAGE_START, PASSAGE_END) if tensor in answer]
    rows = [*zip(answer[INPUT_IDS].tolist(), answer[TOKEN_COUNT][:, 0].tolist(), *places, strict=True)]
    assert all(-1 not in row[:count] and set(row[count:]) <= {-1} for row, count, *_ in rows)
    return [[*row[:count], *of] for row, count, *of in rows]


def assert_each_as_alone(together: Outcome, alone: list[Outcome], *, first: bool = True) -> None:
    """Compare the outcome of several texts with that of each.

    Of those that are refused one is named by its index, the first where `first` says so.
    """
    refused = [
        re.sub(r"^(text|pair|query) 0 ", rf"\1 {index} ", reason)
        for index, reason in enumerate(alone)
        if isinstance(reason, str)
    ]
    if refused:
        assert together in (refused[:1] if first else refused)
    else:
        assert together == [row for rows in alone for row in rows]


@EXAMPLES
@given(requests=st.lists(st.tuples(TEXTS, st.sampled_from([3, 5, 20]), st.booleans()), min_size=1, max_size=4))
def test_the_texts_of_several_requests_get_the_tokens_of_each_alone(
    bert: TextTokenizer, requests: list[tuple[list[str], int, bool]]
) -> None:
    answers = bert.encode([TextBatch(*request) for request in requests])
    for (texts, max_length, refuse), answer in zip(requests, answers, strict=True):
        alone = [bert.encode([TextBatch([text], max_length, refuse)])[0] for text in texts]
        assert_each_as_alone(outcome(lambda each=answer: each), [outcome(lambda each=own: each) for own in alone])


@EXAMPLES
@given(texts=TEXTS, max_length=st.integers(3, 12))
def test_a_text_is_what_fits_of_its_tokens_which_stay_whole_where_they_are_not_to_be_cut(
    bert: TextTokenizer, texts: list[str], max_length: int
) -> None:
    bert.encode([TextBatch([""], 512)])
    whole = bert.bare_ids(texts)
    [answer] = bert.encode([TextBatch(texts, max_length)])
    assert bert.bare_ids(texts) == whole
    expected = [bert.with_special_tokens(ids, max_length) for ids in whole]
    assert outcome(lambda: answer) == expected
    assert all(len(row) <= max_length for row in expected)


@EXAMPLES
@given(pairs=PAIRS, query_length=st.integers(0, 6), max_length=st.integers(4, 20), refuse=st.booleans())
def test_every_pair_gets_the_tokens_it_gets_alone_and_no_more_than_allowed(
    bert: TextTokenizer, pairs: list[tuple[str, str]], query_length: int, max_length: int, refuse: bool
) -> None:
    def encoded(asked: list[tuple[str, str]]) -> Outcome:
        queries, passages = [query for query, _ in asked], [passage for _, passage in asked]
        return outcome(lambda: encode_pairs(bert, RerankBatch(queries, passages, query_length, max_length, refuse)))

    together = encoded(pairs)
    assert_each_as_alone(together, [encoded([pair]) for pair in pairs])
    if isinstance(together, str):
        return
    before, between, after = bert.pair_marks
    for (query, passage), (*row, start) in zip(pairs, together, strict=True):
        whole_query, whole_passage = bert.bare_ids([query, passage])
        kept = bert.cut(whole_query, query_length)
        room = max_length - len(before) - len(kept) - len(between) - len(after)
        assert row[:start] == [*before, *kept, *between]
        assert row[start:] == [*bert.cut(whole_passage, room), *after]
        assert len(row) <= max_length
        assert room > 0 or not whole_passage
        assert not refuse or (kept, room >= len(whole_passage)) == (whole_query, True)


@EXAMPLES
@given(
    pairs=PAIRS,
    lengths=st.tuples(st.integers(0, 8), st.integers(1, 20), st.integers(10, 50)),
    refuse=st.booleans(),
    prompt=TEXT,
    first=st.sampled_from([(), (1,)]),
)
def test_every_prompted_pair_gets_the_tokens_it_gets_alone_and_no_more_than_allowed(
    decoder: TextTokenizer,
    pairs: list[tuple[str, str]],
    lengths: tuple[int, int, int],
    refuse: bool,
    prompt: str,
    first: tuple[int, ...],
) -> None:
    query_length, max_length, most = lengths

    def encoded(asked: list[tuple[str, str]]) -> Outcome:
        queries, passages = [query for query, _ in asked], [passage for _, passage in asked]
        batch = PromptedBatch(queries, passages, query_length, max_length, refuse, prompt, first, most)
        return outcome(lambda: encode_prompted_pairs(decoder, batch))

    together = encoded(pairs)
    assert_each_as_alone(together, [encoded([pair]) for pair in pairs])
    if isinstance(together, str):
        return
    line_break, asked = decoder.bare_ids(["\n", prompt])
    for (query, passage), (*row, start, end) in zip(pairs, together, strict=True):
        whole_query, whole_passage = decoder.bare_ids([query, passage])
        assert row[:start] == [*first, *decoder.cut(whole_query, query_length), *line_break]
        assert row[start:end] == whole_passage[: end - start]
        assert row[end:] == [*line_break, *asked]
        assert len(row) <= most
        assert end - start <= max_length
        assert end > start or not whole_passage
        assert end <= max_length + len(row) - end
        full = max_length == end - start or most == len(row) or max_length + len(row) - end == end
        assert end - start == len(whole_passage) or (full and not refuse)


@EXAMPLES
@given(
    texts=TEXTS | st.lists(st.sampled_from(["fox<query>a", "dog", "fox<query>b", "<query>"]), min_size=3, max_size=5),
    prefix=st.lists(st.sampled_from([*TAGS, "find a text\n", "\n\n"]) | TEXT, max_size=6).map("".join),
    suffix=st.sampled_from(["", "\n<response>", " ok"]),
    lengths=st.tuples(st.integers(4, 30), st.integers(20, 90)),
    refuse=st.booleans(),
)
def test_every_query_behind_examples_gets_the_tokens_it_gets_alone(
    decoder: TextTokenizer, texts: list[str], prefix: str, suffix: str, lengths: tuple[int, int], refuse: bool
) -> None:
    def encoded(asked: list[str]) -> Outcome:
        return outcome(lambda: encode_queries(decoder, QueryBatch(asked, prefix, suffix, *lengths, refuse)))

    together = encoded(texts)
    assert_each_as_alone(together, [encoded([text]) for text in texts], first=False)
    assert isinstance(together, str) or max(map(len, together)) <= lengths[1]


@EXAMPLES
@given(texts=st.lists(st.sampled_from(["", "a", "b", "é", "🙂"]), min_size=1))
def test_pairs_find_the_tokens_of_their_text_where_it_came_first(texts: list[str]) -> None:
    side = DistinctTexts.of(texts)
    input_ids = np.array([[1, ord(text)] if text else [1, -1] for text in side.texts], dtype=np.int32)  # [U, T]
    spread = side.spread(input_ids)
    assert side.rows.tolist() == [texts.index(text) for text in texts]
    assert len(set(side.texts)) == len(side.texts)
    assert spread[side.rows].tolist() == [[1, ord(text)] if text else [1, -1] for text in texts]
    assert (spread[:, 0] == 1).sum() == len(side.texts)
