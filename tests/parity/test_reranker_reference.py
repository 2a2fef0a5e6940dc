# SPDX-License-Identifier: Apache-2.0
"""Encoder rerankers through the server, against FlagEmbedding 1.4.2 and against transformers' own pairs, fp32.

On transformers 5 FlagEmbedding makes texts of its tokens again and loses empty passages and unknown tokens on the way
(docs/reference-behaviour.md#encoder-reranker-pairs); there the tokenizer's own encoding of a pair is the measure.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flagtriton import DeploymentMismatchError, FlagAutoReranker, FlagModel, FlagReranker, InvalidRequestError
from tests.conftest import Served
from tests.support.checkpoints.tiny import TEXTS

pytestmark = [pytest.mark.server, pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND, NORMALISED_BOUND = 1e-4, 1e-5
NAMES = ["reranker-bert", "reranker-xlmr"]
ORDINARY = [text for text in TEXTS if text.isascii() and text]
PAIRS = [(query, passage) for query in ORDINARY[:4] for passage in ORDINARY]
EVERY = [(query, passage) for query in TEXTS for passage in [*TEXTS, " ".join(TEXTS)]]


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def theirs(name: str, served: Served) -> Any:
    from FlagEmbedding import FlagReranker as Reference

    return Reference(str(served.checkpoints[name]), devices="cpu")


@pytest.fixture(scope="module")
def ours(name: str, served: Served) -> FlagReranker:
    return FlagReranker(name, url=served.grpc_url)


@torch.inference_mode()
def by_transformers(checkpoint: Path, pairs: list[tuple[str, str]], max_length: int = 512) -> list[float]:
    """Return the logits of pairs as the Rust tokenizer encodes them, one at a time."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint).backend_tokenizer  # transformers itself drops empty passages
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, strategy="only_second")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    def logit(query: str, passage: str) -> float:
        encoding = tokenizer.encode(query, passage)
        types = encoding.type_ids if model.config.type_vocab_size > 1 else [0] * len(encoding.ids)
        return float(model(input_ids=torch.tensor([encoding.ids]), token_type_ids=torch.tensor([types])).logits)

    return [logit(*pair) for pair in pairs]


def distance(scores: list[float], expected: list[float]) -> float:
    assert len(scores) == len(expected)
    return float(np.abs(np.array(scores) - np.array(expected)).max())


def test_the_tests_pairs_have_different_scores(ours: FlagReranker) -> None:
    assert np.std(ours.compute_score(PAIRS)) > 0.1


def test_scores_are_the_references(ours: FlagReranker, theirs: Any) -> None:
    assert distance(ours.compute_score(PAIRS), theirs.compute_score(PAIRS)) <= BOUND
    normalised = ours.compute_score(PAIRS, normalize=True)
    assert distance(normalised, theirs.compute_score(PAIRS, normalize=True)) <= NORMALISED_BOUND


def test_a_head_that_comes_with_the_checkpoints_code_is_the_references(served: Served) -> None:
    from FlagEmbedding import FlagReranker as Reference

    theirs = Reference(str(served.checkpoints["reranker-own-code"]), trust_remote_code=True, devices="cpu")
    ours = FlagReranker("reranker-own-code", trust_remote_code=True, url=served.grpc_url)
    assert distance(ours.compute_score(PAIRS), theirs.compute_score(PAIRS)) <= BOUND


def test_instructions_are_the_references(ours: FlagReranker, theirs: Any, served: Served) -> None:
    for model in (ours, theirs):
        model.query_instruction_for_rerank, model.passage_instruction_for_rerank = "find: ", "text: "
        model.passage_instruction_format = "{} {}"
    try:
        assert distance(ours.compute_score(PAIRS), theirs.compute_score(PAIRS)) <= BOUND
    finally:
        for model in (ours, theirs):
            model.query_instruction_for_rerank = model.passage_instruction_for_rerank = None


@pytest.mark.parametrize("max_length", [48, 60, 512])
def test_every_pairs_score_is_that_of_the_tokenizers_own_pair(
    ours: FlagReranker, name: str, served: Served, max_length: int
) -> None:
    pairs = [pair for pair in EVERY if len(pair[0]) < 50]  # no query is cut
    expected = by_transformers(served.checkpoints[name], pairs, max_length)
    assert distance(ours.compute_score(pairs, max_length=max_length, query_max_length=max_length), expected) <= BOUND


def test_a_query_is_cut_to_its_own_length(ours: FlagReranker, name: str, served: Served) -> None:
    long, cut = "fox " * 30, "fox " * 10
    expected = by_transformers(served.checkpoints[name], [(cut, "dog")])
    tokens_of_cut = len(_tokens(served.checkpoints[name], cut))
    assert distance(ours.compute_score((long, "dog"), query_max_length=tokens_of_cut), expected) <= BOUND


def _tokens(checkpoint: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return list(AutoTokenizer.from_pretrained(checkpoint)(text, add_special_tokens=False)["input_ids"])


def test_forms_of_input_are_the_references(ours: FlagReranker, theirs: Any) -> None:
    pairs = PAIRS[:3]
    for form in (pairs, [list(pair) for pair in pairs], np.array(pairs), tuple(pairs), pairs[0], list(pairs[0])):
        mine, expected = ours.compute_score(form), theirs.compute_score(form)
        assert type(mine) is type(expected) is list
        assert distance(mine, expected) <= BOUND
    assert ours.compute_score([]) == []


def test_pairs_alone_in_any_order_and_in_small_requests_agree(ours: FlagReranker) -> None:
    together = ours.compute_score(EVERY)
    order = np.random.default_rng(0).permutation(len(EVERY))
    shuffled = ours.compute_score([EVERY[i] for i in order], batch_size=7)
    assert distance(shuffled, [together[i] for i in order]) <= 1e-5
    assert distance([ours.compute_score(pair)[0] for pair in EVERY[::9]], together[::9]) <= 1e-5


def test_callers_with_different_options_at_once_get_their_own(ours: FlagReranker) -> None:
    chosen: list[dict[str, Any]] = [{}, {"normalize": True}, {"max_length": 40}, {"query_max_length": 5}]
    alone = [ours.compute_score(EVERY, **options) for options in chosen]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda i: ours.compute_score(EVERY, **chosen[i % 4]), range(16)))
    for i, answer in enumerate(answers):
        assert distance(answer, alone[i % 4]) <= 1e-5


def test_rerank_puts_the_best_passages_first(ours: FlagReranker) -> None:
    scores = ours.compute_score([(TEXTS[0], text) for text in TEXTS])
    best = ours.rerank(TEXTS[0], TEXTS, top_k=3)
    assert [index for index, _, _ in best] == np.argsort(scores)[::-1][:3].tolist()
    assert [text for _, _, text in best] == [TEXTS[index] for index, _, _ in best]
    assert ours.rerank(TEXTS[0], []) == []


def test_the_factory_and_the_other_tasks_class(name: str, served: Served) -> None:
    with FlagAutoReranker.from_finetuned(name, url=served.grpc_url) as found:
        assert type(found) is FlagReranker
    with pytest.raises(DeploymentMismatchError, match=r"served as rerank .* FlagAutoReranker chooses the right class"):
        FlagModel(name, url=served.grpc_url)
    with pytest.raises(DeploymentMismatchError, match=r"served as embed .* FlagAutoModel chooses the right class"):
        FlagReranker("bert-cls", url=served.grpc_url)


def test_a_query_that_leaves_its_passage_no_room_is_refused(ours: FlagReranker) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"query 1 has 20 tokens, which with . special ones leave its passage"
    ):
        ours.compute_score([("x", "y"), ("fox " * 99, "dog")], max_length=20, query_max_length=20)


def test_a_pair_that_is_none_is_named_by_its_index(ours: FlagReranker) -> None:
    for wrong in (("a",), ("a", None), (1, "b"), "ab"):
        with pytest.raises(TypeError, match=r"sentence_pairs\[1\]"):
            ours.compute_score([("a", "b"), wrong])
