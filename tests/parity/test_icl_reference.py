# SPDX-License-Identifier: Apache-2.0
"""bge-en-icl's class against FlagEmbedding 1.4.2 in this process: examples, instructions, every truncation; fp32."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagAutoModel, FlagICLModel, InvalidRequestError
from tests.conftest import Served
from tests.support.checkpoints.tiny import TEXTS

pytestmark = [pytest.mark.server, pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND = 1e-5
TASK = "Given a question, find what answers it."
THREE = [
    {"instruct": TASK, "query": "what is a reranker", "response": "It reads query and passage together."},
    {"query": "人工智能", "response": "🙂 embeddings"},
    {"instruct": "Find the fox."},
]
EXAMPLES: dict[str, list[dict[str, str]] | None] = {"none": None, "empty": [], "one": THREE[:1], "three": THREE}
QUERIES = [*TEXTS, " ".join(TEXTS), "  leading spaces", "</s> inside", "<query> and <response> inside", "x"]


@pytest.fixture(scope="module")
def theirs(served: Served) -> Any:
    from FlagEmbedding import FlagICLModel as Reference

    return Reference(str(served.checkpoints["icl"]), use_fp16=False, devices="cpu")


@pytest.fixture(scope="module")
def ours(served: Served) -> Iterator[FlagICLModel]:
    with FlagICLModel("icl", url=served.grpc_url, use_fp16=False) as model:
        yield model


def alike(ours: FlagICLModel, theirs: Any, instruction: str | None, examples: Any) -> None:
    """Give both models one instruction and the same examples."""
    for model in (ours, theirs):
        model.query_instruction_for_retrieval = instruction
        model.examples_for_task = examples
        model.set_examples()
    assert ours.prefix == theirs.prefix


@pytest.mark.parametrize("instruction", [None, "", TASK], ids=["no instruction", "empty instruction", "instruction"])
@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
def test_queries_are_the_references(ours: FlagICLModel, theirs: Any, examples: Any, instruction: str | None) -> None:
    alike(ours, theirs, instruction, examples)
    assert np.abs(ours.encode_queries(QUERIES) - theirs.encode_queries(QUERIES)).max() <= BOUND


# The suffix and the two special tokens are 6 tokens: 6 leaves no token of the query, 7 leaves one.
@pytest.mark.parametrize("max_length", [6, 7, 8, 20, 33, 150])
@pytest.mark.parametrize("examples", EXAMPLES.values(), ids=EXAMPLES)
def test_truncated_queries_are_the_references(ours: FlagICLModel, theirs: Any, examples: Any, max_length: int) -> None:
    alike(ours, theirs, TASK, examples)
    mine = ours.encode_queries(QUERIES, max_length=max_length)
    assert np.abs(mine - theirs.encode_queries(QUERIES, max_length=max_length)).max() <= BOUND


@pytest.mark.parametrize("suffix", ["", "\n<response>", " Answer: "])
def test_another_suffix_is_the_references(ours: FlagICLModel, theirs: Any, suffix: str) -> None:
    alike(ours, theirs, TASK, THREE)
    before = ours.suffix
    try:
        ours.suffix = theirs.suffix = suffix
        assert np.abs(ours.encode_queries(QUERIES) - theirs.encode_queries(QUERIES)).max() <= BOUND
    finally:
        ours.suffix = theirs.suffix = before


def test_passages_are_the_references_whatever_the_examples_are(ours: FlagICLModel, theirs: Any) -> None:
    alike(ours, theirs, TASK, THREE)
    for method in ("encode", "encode_corpus"):
        assert np.abs(getattr(ours, method)(QUERIES) - getattr(theirs, method)(QUERIES)).max() <= BOUND


def test_a_query_alone_and_in_a_batch_agree(ours: FlagICLModel, theirs: Any) -> None:
    alike(ours, theirs, TASK, THREE)
    together = ours.encode_queries(QUERIES)
    alone = np.stack([ours.encode_queries(query) for query in QUERIES])
    assert np.abs(together - alone).max() <= 2e-6
    assert np.abs(alone - theirs.encode_queries(QUERIES)).max() <= BOUND


def test_callers_with_different_examples_at_once_get_their_own(served: Served) -> None:
    def model(examples: Any) -> FlagICLModel:
        return FlagICLModel(
            "icl", url=served.grpc_url, query_instruction_for_retrieval=TASK, examples_for_task=examples
        )

    models = [model(examples) for examples in EXAMPLES.values()]
    alone = [each.encode_queries(QUERIES) for each in models]
    assert min(np.abs(a - b).max() for i, a in enumerate(alone) for b in alone[:i]) > 0.01
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda i: models[i % 4].encode_queries(QUERIES), range(32)))
    for i, answer in enumerate(answers):
        assert np.abs(answer - alone[i % 4]).max() <= 2e-6
    for each in models:
        each.close()


def test_set_examples_changes_the_next_queries_and_goes_back(served: Served, theirs: Any) -> None:
    arguments = {"query_instruction_for_retrieval": TASK, "examples_for_task": THREE[:1]}
    with FlagAutoModel.from_finetuned("icl", url=served.grpc_url, use_fp16=False, **arguments) as model:
        assert type(model) is FlagICLModel
        first = model.encode_queries(QUERIES)
        model.set_examples(THREE)
        second = model.encode_queries(QUERIES)
        model.set_examples()
        assert np.array_equal(model.encode_queries(QUERIES), first)
    theirs.query_instruction_for_retrieval = TASK
    for examples, mine in [(THREE[:1], first), (THREE, second)]:
        theirs.set_examples(examples)
        assert np.abs(mine - theirs.encode_queries(QUERIES)).max() <= BOUND


def test_a_prefix_longer_than_the_model_takes_is_refused_with_both_lengths(ours: FlagICLModel, theirs: Any) -> None:
    alike(ours, theirs, TASK, [{"query": "fox " * 600, "response": "dog"}])
    with pytest.raises(InvalidRequestError, match=r"prefix has \d{4} tokens, .* takes 512 in all: send fewer examples"):
        ours.encode_queries(QUERIES)


def test_a_limit_without_room_for_the_suffix_is_refused(ours: FlagICLModel, theirs: Any) -> None:
    alike(ours, theirs, TASK, None)
    with pytest.raises(InvalidRequestError, match="max_length is 3, but the suffix and the special tokens are"):
        ours.encode_queries("x", max_length=3)
    with pytest.raises(OverflowError):
        theirs.encode_queries("x", max_length=3)
