# SPDX-License-Identifier: Apache-2.0
"""Which requests of the SDK's are sent as part of a long job, so that others' queries may overtake them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flagtriton import FlagReranker
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.parameters import write_parameters
from flagtriton.protocol.tensors import DENSE_VECS, PASSAGE, QUERY, TEXT, TensorSpec
from flagtriton.transport.base import InferenceReply, ModelConfig
from flagtriton.transport.fake import FakeTransport, Request
from tests.support.fake_models import answer_as_m3, embedder, fake_m3, fake_server, find, m3, pairs_of

TEXTS = ["a", "bb", "ccc"]
CASES = [
    (None, 1, False),
    (None, 2, True),
    (None, 3, True),
    ("interactive", 1, False),
    ("interactive", 3, False),
    ("bulk", 1, True),
    ("bulk", 3, True),
]
"""A priority, how many requests a call has, and whether they are sent as bulk."""

OPTIONS: dict[str, tuple[Any, dict[TensorSpec, list[str]]]] = {
    "texts": (EmbedOptions(max_length=7), {TEXT: TEXTS}),
    "scores": (ScoreOptions(query_max_length=7), {QUERY: TEXTS, PASSAGE: TEXTS}),
    "pairs": (RerankOptions(max_length=7), {QUERY: TEXTS, PASSAGE: TEXTS}),
}


def fake_reranker() -> FakeTransport:
    def answer(request: Request) -> InferenceReply:
        return {"score": np.zeros((len(pairs_of(request)), 1), np.float32)}

    served = Deployment("rerank", "encoder-only-base", "BAAI/ranker", "cls", 100, "fp32", "cpu")
    return FakeTransport(answer, {"ranker": ModelConfig("ranker", 64, write_parameters(served))})


def sent_as_bulk(fake: FakeTransport) -> list[bool]:
    """Return of every request whether it is bulk; one that is not does not say so."""
    said = [request.parameters.get("bulk") for request in fake.requests]
    assert {each for each in said if each is not None} <= {True}
    return [each is True for each in said]


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize(("priority", "requests", "bulk"), CASES)
def test_every_request_of_a_call_is_bulk_or_none(kind: str, priority: str | None, requests: int, bulk: bool) -> None:
    options, inputs = OPTIONS[kind]
    fake = fake_m3()
    served = find(fake, "bge-m3", priority=priority)
    rows = [np.array(part) for part in np.array_split(np.arange(3), requests)]
    assert len(list(served.replies(rows, inputs, [DENSE_VECS], options))) == requests
    assert [request.parameters for request in fake.requests] == [
        {**options.to_parameters(), **({"bulk": True} if bulk else {})}
    ] * requests


def test_the_call_decides_and_not_the_options_it_is_given() -> None:
    fake = fake_server()
    options = EmbedOptions(bulk=True)
    find(fake).embed(["a"], options, DENSE_VECS, max_rows=1)
    assert sent_as_bulk(fake) == [False]
    assert options.bulk


def test_another_model_of_a_deployment_has_the_same_priority() -> None:
    fake = fake_m3()
    scorer = find(fake, "bge-m3", priority="bulk").companion("bge-m3_score")
    list(scorer.replies([np.array([0])], {QUERY: ["a"], PASSAGE: ["b"]}, [DENSE_VECS], ScoreOptions()))
    assert sent_as_bulk(fake) == [True]


@pytest.mark.parametrize(("priority", "requests", "bulk"), CASES)
def test_an_embedder_takes_a_priority(priority: str | None, requests: int, bulk: bool) -> None:
    fake = fake_server()
    embedder(fake, priority=priority).encode(TEXTS, batch_size=-(-3 // requests))
    assert sent_as_bulk(fake) == [bulk] * requests


@pytest.mark.parametrize(("priority", "requests", "bulk"), CASES)
def test_m3_takes_a_priority(priority: str | None, requests: int, bulk: bool) -> None:
    fake = fake_m3(answer_as_m3)
    m3(fake, priority=priority).encode(TEXTS, batch_size=-(-3 // requests))
    assert sent_as_bulk(fake) == [bulk] * requests


@pytest.mark.parametrize(("priority", "requests", "bulk"), CASES)
def test_a_reranker_takes_a_priority(priority: str | None, requests: int, bulk: bool) -> None:
    fake = fake_reranker()
    made = FlagReranker("ranker", transport=fake, concurrency=1, priority=priority)
    made.compute_score([("q", text) for text in TEXTS], batch_size=-(-3 // requests))
    assert sent_as_bulk(fake) == [bulk] * requests


@pytest.mark.parametrize("make", [embedder, m3])
def test_a_priority_that_there_is_not_is_refused_when_an_object_is_made(make: Any) -> None:
    with pytest.raises(ValueError, match="priority is 'urgent'; expected one of interactive, bulk, or None"):
        make(fake_server(), priority="urgent")
