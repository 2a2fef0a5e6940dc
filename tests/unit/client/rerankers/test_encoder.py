# SPDX-License-Identifier: Apache-2.0
"""`rerankers.base` and `rerankers.encoder`: arguments become requests, replies become lists of floats."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest

from flagtriton import (
    DeploymentMismatchError,
    DeploymentWarning,
    FlagAutoReranker,
    FlagReranker,
    ModelNotServedError,
    RerankerModelClass,
)
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import write_parameters
from flagtriton.transport.base import InferenceReply, ModelConfig
from flagtriton.transport.fake import FakeTransport, Request

NAME = "bge-reranker-base"
PAIRS = [("ab", "c"), ("a", "xyz"), ("ab", "")]
SCORES = [2.125, 1.375, 2.0]  # a query's bytes plus an eighth of its passage's


def answer(request: Request) -> InferenceReply:
    sides = [[len(text) for (text,) in request.inputs[side]] for side in ("query", "passage")]
    return {"score": np.array([[q + p / 8] for q, p in zip(*sides, strict=True)], np.float32)}


def served(name: str = NAME, **chosen: Any) -> FakeTransport:
    known = {"task": "rerank", "model_class": "encoder-only-base", "max_length": 100, "precision": "fp32"}
    deployment = Deployment(
        **{"checkpoint": f"BAAI/{name}", "pooling_method": "cls", "device": "cpu", **known, **chosen}
    )
    return FakeTransport(answer, {name: ModelConfig(name, 64, write_parameters(deployment))})


def reranker(fake: FakeTransport | None = None, **arguments: Any) -> FlagReranker:
    return FlagReranker(NAME, transport=fake or served(), **arguments)


def sent(call: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """Return the parameters that one call sends."""
    fake = served()
    reranker(fake, **arguments).compute_score(PAIRS, **(call or {}))
    return dict(fake.requests[0].parameters)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_constructor_is_flagembeddings() -> None:
    from FlagEmbedding import FlagReranker as Reference

    def named(cls: type) -> dict[str, Any]:
        return {each.name: each.default for each in inspect.signature(cls).parameters.values()}

    assert list(named(FlagReranker).items()) == list(named(Reference).items())


def test_scores_come_in_the_order_of_the_pairs() -> None:
    assert reranker().compute_score(PAIRS) == SCORES


@pytest.mark.parametrize("pair", [("ab", "c"), ["ab", "c"], np.array(["ab", "c"])])
def test_a_lone_pair_gives_a_list_of_one(pair: Any) -> None:
    assert reranker().compute_score(pair) == [2.125]


def test_no_pairs_give_no_scores_and_no_request() -> None:
    fake = served()
    assert reranker(fake).compute_score([]) == []
    assert fake.requests == []


def test_a_batch_size_bounds_the_pairs_of_a_request() -> None:
    fake = served()
    assert reranker(fake).compute_score(PAIRS, batch_size=2) == SCORES
    assert sorted(len(request.inputs["query"]) for request in fake.requests) == [1, 2]


def test_the_default_length_stands_for_the_smaller_of_512_and_the_deployments() -> None:
    assert sent() == {"max_length": 100}


def test_attributes_are_sent_and_a_calls_own_arguments_replace_them() -> None:
    assert sent(max_length=50, query_max_length=20) == {"max_length": 50, "query_max_length": 20}
    call = {"max_length": 40, "query_max_length": 9, "normalize": True}
    assert sent(call, max_length=50, query_max_length=20) == call
    assert sent({"normalize": False}, max_length=50, normalize=True) == {"max_length": 50}


def test_instructions_stand_before_queries_and_passages() -> None:
    model = reranker(
        query_instruction_for_rerank="q:", passage_instruction_for_rerank="p", passage_instruction_format=r"<{}>\n{}"
    )
    assert model.get_detailed_inputs([("a", "b")]) == [("q:a", "<p>\nb")]
    assert model.compute_score(("a", "b")) == [3 + 5 / 8]
    assert model.compute_score_single_gpu([("a", "b")]) == [1 + 1 / 8]


def test_a_format_that_loses_the_text_is_refused() -> None:
    model = reranker(query_instruction_for_rerank="q", query_instruction_format="{}")
    with pytest.raises(ValueError, match=r"query_instruction_format is '\{\}', which leaves the text out"):
        model.compute_score(PAIRS)


@pytest.mark.parametrize("wrong", [("a",), ("a", None), (1, "b"), "ab", 5])
def test_what_is_no_pair_is_named_by_its_index(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"sentence_pairs\[1\]"):
        reranker().compute_score([("a", "b"), wrong])


def test_an_unknown_argument_of_a_call_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'top'"):
        reranker().compute_score(PAIRS, top=3)


def test_rerank_returns_index_score_and_text_the_best_first() -> None:
    assert reranker().rerank("q", ["a", "ccc", "bb"], top_k=2) == [(1, 1.375, "ccc"), (2, 1.25, "bb")]


@pytest.mark.parametrize(("query", "top_k"), [(None, 1), (["q"], 1), ("q", -1)])
def test_rerank_wants_one_query_and_no_negative_number(query: Any, top_k: int) -> None:
    with pytest.raises(ValueError, match="expected a str, and at least 0 or None"):
        reranker().rerank(query, ["a"], top_k)


def test_a_length_beyond_the_deployments_is_refused() -> None:
    with pytest.raises(DeploymentMismatchError, match="max_length=101, but bge-reranker-base is served with at most"):
        reranker(max_length=101)


def test_an_embedder_is_no_reranker() -> None:
    with pytest.raises(DeploymentMismatchError, match=r"this class expects rerank .* FlagAutoModel chooses"):
        reranker(served(task="embed"))


def test_defaults_give_no_warning_and_an_unknown_argument_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reranker(served(precision="fp16"))
    with pytest.warns(DeploymentWarning, match="ignored: passage_max_length"):
        reranker(passage_max_length=512)


def test_the_factory_is_not_to_be_called() -> None:
    with pytest.raises(OSError, match="FlagAutoReranker is designed to be instantiated using"):
        FlagAutoReranker()


@pytest.mark.parametrize("model_class", [None, "encoder-only-base", RerankerModelClass.ENCODER_ONLY_BASE])
@pytest.mark.parametrize("name", [f"BAAI/{NAME}", f"./out/{NAME}/checkpoint-500", f"BAAI/{NAME}/"])
def test_the_factory_finds_the_class_by_name(name: str, model_class: Any) -> None:
    assert type(FlagAutoReranker.from_finetuned(name, model_class, transport=served())) is FlagReranker


def test_the_factory_asks_the_server_about_other_names() -> None:
    assert type(FlagAutoReranker.from_finetuned("mine", transport=served("mine"))) is FlagReranker
    with pytest.raises(DeploymentMismatchError, match="mine is served as embed encoder-only-base, for which"):
        FlagAutoReranker.from_finetuned("mine", transport=served("mine", task="embed"))
    with pytest.raises(ModelNotServedError):
        FlagAutoReranker.from_finetuned("other", transport=served("mine"))


@pytest.mark.parametrize("model_class", ["nope", FlagReranker])
def test_another_class_is_refused_as_in_flagembedding(model_class: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid RerankerModelClass"):
        FlagAutoReranker.from_finetuned(NAME, model_class, transport=served())
