# SPDX-License-Identifier: Apache-2.0
"""Properties of `FlagReranker`: any pairs, however they are cut and answered, get the scores that each has alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagtriton import FlagReranker
from flagtriton.protocol.tensors import SCORE
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import FakeTransport, Request
from tests.properties.test_remote import BYTES, EXAMPLES, ROWS, TEXT, TEXTS, TROUBLES, Trouble, digest, in_trouble
from tests.support.fake_models import model_config, pairs_of

RERANKER = "bge-reranker-base"
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=10)
TOP_K = st.sampled_from([None, 0, 1, 2, 5, 14])
METHODS = ["compute_score", "compute_score_single_gpu", "encode_multi_process"]


@pytest.fixture(scope="module", autouse=True)
def no_waits() -> Iterator[None]:
    """Try again at once."""
    with mock.patch("tenacity.sleep_using_event", return_value=lambda seconds: None):
        yield


def served(layers: int = 1, max_batch_size: int = 64) -> FakeTransport:
    """Return a server whose reranker gives every pair as many scores, which no other pair has."""

    def answer(request: Request) -> InferenceReply:
        return {SCORE.name: np.array([digest(*pair)[:layers] for pair in pairs_of(request)], np.float32)}

    return FakeTransport(answer, {RERANKER: model_config(RERANKER, max_batch_size=max_batch_size, task="rerank")})


@EXAMPLES
@given(
    pairs=PAIRS,
    method=st.sampled_from(METHODS),
    layers=st.integers(1, 3),
    limits=st.tuples(ROWS, ROWS, BYTES),
    trouble=TROUBLES,
)
def test_every_pair_gets_its_own_scores_and_is_answered_once(
    pairs: list[tuple[str, str]], method: str, layers: int, limits: tuple[int, int, int], trouble: Trouble
) -> None:
    batch_size, max_batch_size, max_bytes = limits

    def scores(fake: FakeTransport, asked: Any, concurrency: int = 1) -> Any:
        named = {"concurrency": concurrency, "retries": trouble.retries, "transport": fake}
        with FlagReranker(RERANKER, query_instruction_for_rerank="q: ", **named) as model:
            return getattr(model, method)(asked, batch_size=batch_size)

    quiet = served(layers, max_batch_size)
    with mock.patch("flagtriton.rerankers.base._BYTES_PER_REQUEST", max_bytes):
        scores(quiet, pairs)
        fake, unruly = in_trouble(quiet, trouble)
        together = scores(fake, pairs, trouble.concurrency)
    alone = [scores(served(layers), pair) for pair in pairs]  # [score] each, or [[score], …] of several layers
    sent = [(f"q: {query}" if method == "compute_score" else query, passage) for query, passage in pairs]
    if not pairs:
        assert together == []
    elif layers == 1:
        assert together == [score for (score,) in alone] == [digest(*pair)[0] for pair in sent]
    else:
        assert together == [[own[layer][0] for own in alone] for layer in range(layers)]
        assert together == [[digest(*pair)[layer] for pair in sent] for layer in range(layers)]
    assert Counter(pair for request in unruly.answered for pair in pairs_of(request)) == Counter(sent)
    assert all(1 <= len(pairs_of(request)) <= min(batch_size, max_batch_size) for request in quiet.requests)


@EXAMPLES
@given(query=TEXT, passages=TEXTS, top_k=TOP_K, max_batch_size=ROWS)
def test_reranking_sorts_the_passages_by_the_score_that_each_has_by_itself(
    query: str, passages: list[str], top_k: int | None, max_batch_size: int
) -> None:
    with FlagReranker(RERANKER, concurrency=1, transport=served(max_batch_size=max_batch_size)) as model:
        best = model.rerank(query, passages, top_k)
        scores = [model.compute_score((query, passage))[0] for passage in passages]
    expected = sorted(zip(scores, range(len(passages)), strict=True), key=lambda scored: (-scored[0], scored[1]))
    assert best == [(row, score, passages[row]) for score, row in expected][:top_k]
