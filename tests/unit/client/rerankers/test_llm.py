# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.rerankers.llm`: FlagEmbedding's arguments become request parameters, replies become scores by layer."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flagtriton import (
    DeploymentMismatchError,
    DeploymentWarning,
    FlagLLMReranker,
    FlagReranker,
    LayerWiseFlagLLMReranker,
    LightWeightFlagLLMReranker,
)
from flagtriton.rerankers.base import AbsReranker
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import FakeTransport, Request
from tests.support.fake_models import model_config, pairs_of

NAME = "mine"
MODEL_CLASSES: dict[type[AbsReranker], str] = {
    FlagReranker: "encoder-only-base",
    FlagLLMReranker: "decoder-only-base",
    LayerWiseFlagLLMReranker: "decoder-only-layerwise",
    LightWeightFlagLLMReranker: "decoder-only-lightweight",
}
LLMS = [FlagLLMReranker, LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker]
LAYERED = LLMS[1:]
LISTS = ["cutoff_layers", "compress_layers"]
PAIRS = [("ab", "c"), ("a", "xyz")]
ALWAYS = {"max_length": 100, "query_instruction": "", "passage_instruction": ""}
"""What every request carries: the deployment's length, and that instructions are before the texts already."""


def answer(request: Request) -> InferenceReply:
    """Return `[P, K]`, the bytes of a pair and 100 for each layer's number, of the layers that are asked for."""
    asked = str(request.parameters.get("cutoff_layers", "0"))
    layers = sorted({int(layer) for layer in asked.split(",")})
    sizes = [len((query + passage).encode()) for query, passage in pairs_of(request)]
    return {"score": np.array([[size + 100 * layer for layer in layers] for size in sizes], np.float32)}


def served(cls: type[AbsReranker] = LightWeightFlagLLMReranker, *, rows: int = 1024, **chosen: Any) -> FakeTransport:
    known = {"task": "rerank", "model_class": MODEL_CLASSES[cls], "max_length": 100, **chosen}
    return FakeTransport(answer, {NAME: model_config(NAME, max_batch_size=rows, **known)})


def reranker(cls: Any = LightWeightFlagLLMReranker, fake: FakeTransport | None = None, **arguments: Any) -> Any:
    return cls(NAME, transport=fake or served(cls), concurrency=1, **arguments)


def sent(model: Any, **call: Any) -> dict[str, Any]:
    """Return what a call sends beside that which every request carries."""
    model.compute_score(PAIRS, **call)
    parameters = dict(model.served.transport.requests[-1].parameters)
    assert {name: parameters.pop(name) for name in ALWAYS} == ALWAYS
    return parameters


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["__init__", "compute_score", "compute_score_single_gpu"])
@pytest.mark.parametrize("cls", MODEL_CLASSES)
def test_the_reference_has_the_same_signature(cls: type, method: str) -> None:
    import FlagEmbedding

    ours, theirs = (
        [(one.name, one.kind, one.default) for one in inspect.signature(getattr(each, method)).parameters.values()]
        for each in (cls, getattr(FlagEmbedding, cls.__name__))
    )
    assert ours == theirs


@pytest.mark.parametrize("cls", LLMS)
def test_defaults_send_no_option_and_no_instruction(cls: type) -> None:
    assert sent(reranker(cls)) == {}


@pytest.mark.parametrize("cls", LLMS)
def test_the_models_own_instructions_are_put_before_the_texts_here(cls: type) -> None:
    model = reranker(cls)
    model.compute_score(("q", "p"))
    assert pairs_of(model.served.transport.requests[0]) == [("A: q", "B: p")]


def test_no_instruction_leaves_texts_as_they_are_and_the_deployments_out() -> None:
    model = reranker(query_instruction_for_rerank=None, passage_instruction_for_rerank=None)
    assert sent(model) == {}
    assert pairs_of(model.served.transport.requests[0]) == PAIRS


def test_other_instructions_and_formats_are_applied_here() -> None:
    model = reranker(query_instruction_for_rerank="q", query_instruction_format=r"{}\n{}")
    model.passage_instruction_for_rerank, model.passage_instruction_format = "p", "<{}> {}"
    assert sent(model) == {}
    assert pairs_of(model.served.transport.requests[0])[0] == ("q\nab", "<p> c")


def test_pairs_for_one_gpu_stay_without_instructions_and_the_deployments_are_left_out_too() -> None:
    model = reranker()
    assert model.compute_score_single_gpu(PAIRS) == [3, 4]
    assert model.served.transport.requests[0].parameters == ALWAYS


@pytest.mark.parametrize(
    ("cls", "call"),
    [(cls, {"prompt": "why?", "normalize": True, "query_max_length": 7}) for cls in LLMS]
    + [(cls, {"cutoff_layers": [8, 16]}) for cls in LAYERED]
    + [(LightWeightFlagLLMReranker, {"compress_ratio": 2, "compress_layers": [4, 12]})],
)
def test_options_may_come_with_the_constructor_as_attributes_or_with_a_call(cls: type, call: dict[str, Any]) -> None:
    expected = {name: ",".join(map(str, of)) if isinstance(of, list) else of for name, of in call.items()}
    assert sent(reranker(cls, **call)) == expected
    assert sent(reranker(cls), **call) == expected
    model = reranker(cls)
    for name, value in call.items():
        setattr(model, name, value)
    assert sent(model) == expected
    assert len(model.compute_score_single_gpu(PAIRS, **call)) == 2
    assert model.served.transport.requests[-1].parameters == {**ALWAYS, **expected}


def test_a_calls_own_options_replace_the_attributes_for_that_call_alone() -> None:
    model = reranker(prompt="why?", cutoff_layers=[8], compress_ratio=2, compress_layers=[4])
    own = {"prompt": "how?", "cutoff_layers": [9], "compress_ratio": 3, "compress_layers": [5]}
    assert sent(model, **own) == {**own, "cutoff_layers": "9", "compress_layers": "5"}
    kept = {"prompt": "why?", "cutoff_layers": "8", "compress_ratio": 2, "compress_layers": "4"}
    assert sent(model) == sent(model, **dict.fromkeys(own)) == kept
    assert sent(reranker(compress_ratio=2, compress_layers=[4]), compress_ratio=1, compress_layers=[8]) == {}


def test_an_empty_prompt_is_sent() -> None:
    assert sent(reranker(prompt="")) == {"prompt": ""}
    assert sent(reranker(prompt="why?"), prompt="") == {"prompt": ""}


@pytest.mark.parametrize("name", LISTS)
def test_layers_may_be_one_number_or_several_and_keep_their_order(name: str) -> None:
    for given in (12, [12], (12,), range(12, 13), np.array([12]), [np.int32(12)]):
        assert sent(reranker(), **{name: given}) == {name: "12"}
    assert sent(reranker(), **{name: [12, 0]}) == {name: "12,0"}
    assert sent(reranker(), **{name: 0}) == {name: "0"}


@pytest.mark.parametrize("name", LISTS)
def test_a_lone_number_may_be_numpys(name: str) -> None:
    assert sent(reranker(), **{name: np.int64(12)}) == {name: "12"}


def test_no_layer_to_merge_tokens_before_merges_none_as_in_flagembedding() -> None:
    for model in (reranker(compress_layers=[], compress_ratio=2), reranker(compress_layers=None, compress_ratio=2)):
        assert sent(model) in ({}, {"compress_layers": "0", "compress_ratio": 2})  # there is no merging before layer 0


@pytest.mark.parametrize("pairs", [PAIRS, []])
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "given", [-1, [4, -1], True, [True], [4.5], 4.5, "4", "four", ["four"], [None], [[4]], [float("nan")]], ids=str
)
def test_what_are_no_layers_is_named_even_without_pairs(name: str, given: Any, pairs: list[tuple[str, str]]) -> None:
    model = reranker()
    with pytest.raises((TypeError, ValueError), match=rf"{name} is .*, expected whole numbers of at least 0"):
        model.compute_score(pairs, **{name: given})
    assert model.served.transport.requests == []


def test_no_layer_to_score_is_refused_as_in_flagembedding() -> None:
    for model, call in ((reranker(), {"cutoff_layers": []}), (reranker(cutoff_layers=[]), {})):
        with pytest.raises(ValueError, match=r"cutoff_layers is \[\], expected whole numbers of at least 0, one"):
            model.compute_score(PAIRS, **call)


@pytest.mark.parametrize("cls", LLMS)
def test_no_pairs_give_no_scores_and_no_request(cls: type) -> None:
    model = reranker(cls)
    assert model.compute_score([]) == model.compute_score_single_gpu([]) == []
    assert model.served.transport.requests == []


@pytest.mark.parametrize(
    ("cls", "bad", "said"),
    [
        (FlagLLMReranker, {"cutoff_layers": [8]}, "unexpected keyword argument 'cutoff_layers'"),
        (LayerWiseFlagLLMReranker, {"compress_layers": [8]}, "unexpected keyword argument 'compress_layers'"),
        (LayerWiseFlagLLMReranker, {"compress_layer": [8]}, "unexpected keyword argument 'compress_layer'"),
        (LightWeightFlagLLMReranker, {"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ],
)
def test_a_bad_argument_is_refused_even_without_pairs(cls: type, bad: dict[str, Any], said: str) -> None:
    for pairs in (PAIRS, []):
        with pytest.raises((TypeError, ValueError), match=said):
            reranker(cls).compute_score(pairs, **bad)


def test_the_older_name_of_compress_layers_warns_and_wins() -> None:
    model = reranker(compress_layers=[4])
    for score in (model.compute_score, model.compute_score_single_gpu):
        with pytest.warns(DeprecationWarning, match="compress_layer is called compress_layers now") as caught:
            score(PAIRS, compress_layer=[12], compress_layers=[16], compress_ratio=2)
        assert caught[0].filename == __file__
        assert model.served.transport.requests[-1].parameters["compress_layers"] == "12"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sent(model, compress_layer=None) == {"compress_layers": "4"}


@pytest.mark.parametrize("cls", LLMS[:2])
def test_how_flagembedding_would_read_its_own_input_has_no_effect(cls: type) -> None:
    model = reranker(cls)
    assert sent(model, use_dataloader=True, num_workers=4) == {}
    assert model.compute_score_single_gpu(PAIRS, use_dataloader=True, num_workers=4, device="cuda:1") == [3, 4]


def test_scores_of_one_layer_are_flat_and_of_several_one_list_a_layer() -> None:
    model = reranker(query_instruction_for_rerank=None, passage_instruction_for_rerank=None)
    assert model.compute_score(PAIRS, cutoff_layers=[1]) == model.compute_score(PAIRS, cutoff_layers=1) == [103, 104]
    assert model.compute_score(PAIRS, cutoff_layers=[1, 2]) == [[103, 104], [203, 204]]
    assert model.compute_score(PAIRS, cutoff_layers=[2, 1]) == [[103, 104], [203, 204]]
    assert model.compute_score(PAIRS, cutoff_layers=[2, 2]) == [203, 204]
    assert model.compute_score(("ab", "c"), cutoff_layers=[1, 2]) == [[103], [203]]
    assert {type(score) for layer in model.compute_score(PAIRS, cutoff_layers=[1, 2]) for score in layer} == {float}


def test_scores_of_several_layers_and_requests_come_in_the_order_of_the_pairs() -> None:
    model = reranker(cutoff_layers=[1, 2], batch_size=2, passage_instruction_for_rerank=None)
    scores = model.compute_score_single_gpu([("q", "x" * size) for size in (1, 5, 3, 2, 4)])
    assert scores == [[102, 106, 104, 103, 105], [202, 206, 204, 203, 205]]
    assert [len(pairs_of(request)) for request in model.served.transport.requests] == [2, 2, 1]


def test_rerank_orders_by_the_one_layer_that_is_asked_for() -> None:
    model = reranker(passage_instruction_for_rerank=None, query_instruction_for_rerank=None, cutoff_layers=[1])
    assert model.rerank("q", ["a", "ccc", "bb"], top_k=2) == [(1, 104, "ccc"), (2, 103, "bb")]
    assert model.rerank("q", ["a"], cutoff_layers=2) == [(0, 202, "a")]


def test_rerank_refuses_scores_of_several_layers() -> None:
    for model, call in ((reranker(cutoff_layers=[1, 2]), {}), (reranker(), {"cutoff_layers": [1, 2]})):
        with pytest.raises(ValueError, match="rerank got the scores of 2 layers; name one in cutoff_layers"):
            model.rerank("q", ["a", "b"], **call)
        assert model.rerank("q", [], **call) == []


@pytest.mark.parametrize(("rows", "expected"), [(1024, [300]), (256, [256, 44])])
def test_rerank_sends_as_many_passages_in_a_request_as_the_deployment_takes(rows: int, expected: list[int]) -> None:
    model = reranker(fake=served(rows=rows))
    best = model.rerank("q" * 500, [f"{number} " + "long " * 2_000 for number in range(300)])  # 3 MB
    assert len(best) == 300
    assert [len(pairs_of(request)) for request in model.served.transport.requests] == expected


def test_compute_score_keeps_flagembeddings_batch_size() -> None:
    model = reranker()
    model.compute_score([("q", "p")] * 200)
    assert [len(pairs_of(request)) for request in model.served.transport.requests] == [128, 72]


@pytest.mark.parametrize("adapter", ["maker/lora", "./out/lora", "/out/lora/checkpoint-500"])
def test_the_adapter_that_is_served_may_be_named(adapter: str) -> None:
    assert reranker(fake=served(peft="maker/lora"), peft_path=adapter).peft_path == adapter
    assert reranker(fake=served(peft="maker/lora")).peft_path is None


def test_a_link_to_the_adapter_that_is_served_is_that_adapter(tmp_path: Path) -> None:
    (tmp_path / "store-0f3c").mkdir()
    (tmp_path / "my-lora").symlink_to("store-0f3c")
    for asked in ("my-lora", "store-0f3c"):
        path = str(tmp_path / asked)
        assert reranker(fake=served(peft=str(tmp_path / "store-0f3c")), peft_path=path).peft_path == path


@pytest.mark.parametrize(("peft", "shown"), [(None, "no adapter"), ("maker/other", "maker/other")])
def test_another_adapter_than_is_served_is_refused(peft: str | None, shown: str) -> None:
    fake = served(peft=peft)
    with pytest.raises(DeploymentMismatchError, match=rf"peft_path is 'maker/lora', but mine is served with {shown}; "):
        reranker(fake=fake, peft_path="maker/lora")
    assert fake.closed


def test_bf16_is_compared_with_what_is_served_and_defaults_warn_of_nothing() -> None:
    with pytest.warns(DeploymentWarning, match="^mine: use_bf16=True, served in fp32$"):
        reranker(use_bf16=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reranker(fake=served(precision="bf16"), use_bf16=True)
        for precision in ("fp32", "bf16", "auto"):
            reranker(fake=served(precision=precision))


@pytest.mark.parametrize("cls", MODEL_CLASSES)
def test_a_reranker_of_another_class_is_refused_with_the_factory_that_chooses(cls: type[AbsReranker]) -> None:
    for other in MODEL_CLASSES.keys() - {cls}:
        fake = served(other)
        said = f"served as rerank {MODEL_CLASSES[other]}; this class expects rerank {MODEL_CLASSES[cls]}. FlagAutoRer"
        with pytest.raises(DeploymentMismatchError, match=said):
            reranker(cls, fake)
        assert fake.closed


def test_an_embedder_of_a_decoder_is_no_reranker() -> None:
    with pytest.raises(DeploymentMismatchError, match=r"served as embed decoder-only-base; .* FlagAutoModel chooses"):
        reranker(FlagLLMReranker, served(FlagLLMReranker, task="embed"))
