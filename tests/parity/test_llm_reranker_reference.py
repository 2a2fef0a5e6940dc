# SPDX-License-Identifier: Apache-2.0
"""An LLM reranker through the server, against FlagEmbedding 1.4.2 on the same tiny Gemma, fp32."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagAutoReranker, FlagLLMReranker, InvalidRequestError
from tests.conftest import Served
from tests.support.checkpoints.tiny import TEXTS

pytestmark = [pytest.mark.server, pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND, NORMALISED_BOUND = 1e-4, 1e-5
NAME = "reranker-gemma"
LONG = " ".join(TEXTS * 8)
PAIRS = [(query, passage) for query in [*TEXTS[:4], "", LONG] for passage in [*TEXTS, LONG]]


@pytest.fixture(scope="module")
def theirs(served: Served) -> Any:
    from FlagEmbedding import FlagLLMReranker as Reference

    return Reference(str(served.checkpoints[NAME]), devices="cpu", batch_size=16)


@pytest.fixture(scope="module")
def ours(served: Served) -> FlagLLMReranker:
    return FlagLLMReranker(NAME, url=served.grpc_url)


def distance(scores: Any, expected: Any) -> float:
    assert np.shape(scores) == np.shape(expected)
    return float(np.abs(np.array(scores) - np.array(expected)).max())


def test_the_tests_pairs_have_different_scores(ours: FlagLLMReranker) -> None:
    assert np.std(ours.compute_score(PAIRS)) > 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_length": 24, "query_max_length": 8},
        {"max_length": 24},
        {"prompt": ""},
        {"prompt": "Is it so? Yes or no: "},
        {"batch_size": 5},
    ],
    ids=str,
)
def test_scores_are_the_references(ours: FlagLLMReranker, theirs: Any, arguments: dict[str, Any]) -> None:
    expected = theirs.compute_score(PAIRS, **arguments)
    assert distance(ours.compute_score(PAIRS, **arguments), expected) <= BOUND
    normalised = theirs.compute_score(PAIRS, **arguments, normalize=True)
    assert distance(ours.compute_score(PAIRS, **arguments, normalize=True), normalised) <= NORMALISED_BOUND


@pytest.mark.parametrize("instructions", [(None, None), ("query: ", "passage: ")])
def test_instructions_are_the_references(
    theirs: Any, served: Served, instructions: tuple[str | None, str | None]
) -> None:
    names = ("query_instruction_for_rerank", "passage_instruction_for_rerank")
    ours = FlagLLMReranker(NAME, url=served.grpc_url, **dict(zip(names, instructions, strict=True)))
    before = [getattr(theirs, name) for name in names]
    try:
        for name, value in zip(names, instructions, strict=True):
            setattr(theirs, name, value)
        assert distance(ours.compute_score(PAIRS), theirs.compute_score(PAIRS)) <= BOUND
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(theirs, name, value)


def test_pairs_alone_in_any_order_and_in_small_requests_agree(ours: FlagLLMReranker) -> None:
    together = ours.compute_score(PAIRS)
    order = np.random.default_rng(0).permutation(len(PAIRS))
    shuffled = ours.compute_score([PAIRS[i] for i in order], batch_size=7)
    assert distance(shuffled, [together[i] for i in order]) <= 2e-5
    assert distance([ours.compute_score(pair)[0] for pair in PAIRS[::9]], together[::9]) <= 2e-5


def test_callers_with_different_options_at_once_get_their_own(ours: FlagLLMReranker) -> None:
    chosen: list[dict[str, Any]] = [{}, {"normalize": True}, {"prompt": "?"}, {"max_length": 20}]
    alone = [ours.compute_score(PAIRS, **options) for options in chosen]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda i: ours.compute_score(PAIRS, **chosen[i % 4]), range(16)))
    for i, answer in enumerate(answers):
        assert distance(answer, alone[i % 4]) <= 2e-5


def test_rerank_puts_the_best_passages_first(ours: FlagLLMReranker) -> None:
    scores = ours.compute_score([(TEXTS[0], text) for text in TEXTS])
    best = ours.rerank(TEXTS[0], TEXTS, top_k=3)
    assert [index for index, _, _ in best] == np.argsort(scores)[::-1][:3].tolist()


def test_the_factory_finds_the_class(served: Served) -> None:
    with FlagAutoReranker.from_finetuned(NAME, url=served.grpc_url) as found:
        assert type(found) is FlagLLMReranker


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cutoff_layers": [2]}, "cutoff_layers"),
        ({"prompt": 3}, "prompt"),
        ({"max_length": 9999}, "max_length"),
    ],
)
def test_a_bad_argument_is_named(ours: FlagLLMReranker, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((InvalidRequestError, TypeError), match=said):
        ours.compute_score(("a", "b"), **arguments)


def test_a_prompt_that_leaves_no_room_is_refused(ours: FlagLLMReranker) -> None:
    with pytest.raises(InvalidRequestError, match=r"query 0 takes \d+ tokens, .* of the prompt leave its passage none"):
        ours.compute_score(("a", "b"), prompt="why? " * 900)
