# SPDX-License-Identifier: Apache-2.0
"""Properties of `BGEM3FlagModel`: three outputs, five scores and tokens, the same however a list is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagtriton import BGEM3FlagModel
from flagtriton.m3.output import M3Output, lexical_matching_score, lexical_matching_scores
from flagtriton.protocol.tensors import QUERY, SCORES, TOKEN_ID
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import FakeTransport, Request
from tests.properties.test_remote import BYTES, EXAMPLES, ROWS, TEXT, TEXTS, TROUBLES, Trouble, digest, in_trouble
from tests.support.fake_models import (
    M3_NAME,
    METHODS,
    answer_as_m3,
    colbert,
    fake_m3,
    pairs_of,
    sparse,
    texts_of,
    vector,
)

PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=10)
TOP_K = st.sampled_from([None, 0, 1, 2, 5, 14])
OUTPUTS = (vector, sparse, colbert)
FLAGS = st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9).map(float))
TOKEN_IDS = st.lists(st.dictionaries(st.integers(32, 80).map(str), st.just(1.0)), min_size=2, max_size=6)


@pytest.fixture(scope="module", autouse=True)
def no_waits() -> Iterator[None]:
    """Try again at once."""
    with mock.patch("tenacity.sleep_using_event", return_value=lambda seconds: None):
        yield


def answer(request: Request) -> InferenceReply:
    """Return the outputs of texts, which can be read off their bytes; of pairs, five scores that no other pair has."""
    if QUERY.name not in request.inputs:
        return answer_as_m3(request)
    scores = np.array([[*digest(*pair), *digest(*pair, "")] for pair in pairs_of(request)], np.float32)  # [P, 8]
    return {tensor.name: scores[:, [column]] for column, tensor in enumerate(SCORES.values())}


def in_lists(output: M3Output) -> dict[str, list[Any] | None]:
    """Return an output's arrays and dicts as plain lists and dicts, which can be compared."""
    dense, sparse_weights, vectors = (output[name] for name in ("dense_vecs", "lexical_weights", "colbert_vecs"))
    return {
        "dense_vecs": None if dense is None else dense.tolist(),
        "lexical_weights": None if sparse_weights is None else [dict(weights) for weights in sparse_weights],
        "colbert_vecs": None if vectors is None else [own.tolist() for own in vectors],
    }


@EXAMPLES
@given(
    texts=TEXTS,
    method=st.sampled_from(METHODS),
    flags=FLAGS,
    limits=st.tuples(ROWS, ROWS, BYTES, st.integers(1, 400)),
    trouble=TROUBLES,
)
def test_every_text_gets_its_own_outputs(
    texts: list[str], method: str, flags: tuple[bool, bool, bool], limits: tuple[int, int, int, int], trouble: Trouble
) -> None:
    batch_size, max_batch_size, max_bytes, reply_bytes = limits
    names = ("return_dense", "return_sparse", "return_colbert_vecs")

    def outputs(fake: FakeTransport, asked: list[str] | str, concurrency: int = 1) -> M3Output:
        named = {"concurrency": concurrency, "retries": trouble.retries, "transport": fake}
        with BGEM3FlagModel(M3_NAME, **named) as model:
            return getattr(model, method)(asked, batch_size, **dict(zip(names, flags, strict=True)))

    quiet = fake_m3(answer, max_batch_size=max_batch_size)
    with (
        mock.patch("flagtriton.remote.model._BYTES_PER_REQUEST", max_bytes),
        mock.patch("flagtriton.m3.encode._COLBERT_BYTES_PER_REPLY", reply_bytes),
    ):
        outputs(quiet, texts)
        fake, unruly = in_trouble(quiet, trouble)
        together = outputs(fake, texts, trouble.concurrency)
    expected = [[of(text) for text in texts] if flag else None for flag, of in zip(flags, OUTPUTS, strict=True)]
    assert list(in_lists(together).values()) == expected
    for row, text in enumerate(texts):
        alone = outputs(fake_m3(answer), text)
        assert in_lists(together[row]) == in_lists(alone[:])
    assert Counter(text for request in unruly.answered for text in texts_of(request)) == Counter(texts or [""])


@EXAMPLES
@given(pairs=PAIRS, limits=st.tuples(ROWS, ROWS), trouble=TROUBLES)
def test_every_pair_gets_its_own_five_scores(
    pairs: list[tuple[str, str]], limits: tuple[int, int], trouble: Trouble
) -> None:
    batch_size, max_batch_size = limits

    def scores(fake: FakeTransport, asked: Any, concurrency: int = 1) -> Any:
        named = {"concurrency": concurrency, "retries": trouble.retries, "transport": fake}
        with BGEM3FlagModel(M3_NAME, **named) as model:
            return model.compute_score(asked, batch_size)

    quiet = fake_m3(answer, max_batch_size=max_batch_size)
    scores(quiet, pairs)
    fake, unruly = in_trouble(quiet, trouble)
    together = scores(fake, pairs, trouble.concurrency)
    alone = [scores(fake_m3(answer), pair) for pair in pairs]
    assert together == ({name: [own[name] for own in alone] for name in SCORES} if pairs else [])
    assert [list(own.values()) for own in alone] == [[*digest(*pair), *digest(*pair, "")][:5] for pair in pairs]
    assert Counter(pair for request in unruly.answered for pair in pairs_of(request)) == Counter(pairs)
    assert all(1 <= len(pairs_of(request)) <= min(limits) for request in quiet.requests)


@EXAMPLES
@given(query=TEXT, passages=TEXTS, top_k=TOP_K, batch_size=ROWS)
def test_reranking_sorts_the_passages_by_the_score_that_each_has_by_itself(
    query: str, passages: list[str], top_k: int | None, batch_size: int
) -> None:
    with BGEM3FlagModel(M3_NAME, concurrency=1, transport=fake_m3(answer)) as model:
        best = model.rerank(query, passages, top_k, batch_size=batch_size)
        scores = [model.compute_score((query, passage))["colbert+sparse+dense"] for passage in passages]
    expected = sorted(zip(scores, range(len(passages)), strict=True), key=lambda scored: (-scored[0], scored[1]))
    assert best == [(row, score, passages[row]) for score, row in expected][:top_k]


@EXAMPLES
@given(calls=st.lists(TOKEN_IDS, min_size=1, max_size=3), max_batch_size=st.integers(1, 20))
def test_weights_by_id_become_weights_by_token_and_no_id_is_asked_for_twice(
    calls: list[list[dict[str, float]]], max_batch_size: int
) -> None:
    fake = fake_m3(answer, max_batch_size=max_batch_size)
    with BGEM3FlagModel(M3_NAME, concurrency=1, transport=fake) as model:
        converted = [model.convert_id_to_token(weights) for weights in calls]
    assert converted == [[{chr(int(key)): 1.0 for key in own} for own in weights] for weights in calls]
    asked = Counter(number for request in fake.requests for number in request.inputs[TOKEN_ID.name][:, 0].tolist())
    assert asked == Counter({int(key) for weights in calls for own in weights for key in own})
    assert all(len(request.inputs[TOKEN_ID.name]) <= max_batch_size for request in fake.requests)


@EXAMPLES
@given(queries=st.lists(WEIGHTS, max_size=5), passages=st.lists(WEIGHTS, max_size=5), columns=st.integers(1, 7))
def test_lexical_scores_of_two_lists_are_those_of_every_two_texts(
    queries: list[dict[str, float]], passages: list[dict[str, float]], columns: int
) -> None:
    with mock.patch("flagtriton.m3.output._BLOCK_COLUMNS", columns):
        scores = lexical_matching_scores(queries, passages)
    expected = [[lexical_matching_score(query, passage) for passage in passages] for query in queries]
    assert scores.shape == (len(queries), len(passages))
    assert scores.tolist() == expected
