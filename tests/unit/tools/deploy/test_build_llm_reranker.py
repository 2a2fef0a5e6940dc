# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools`: what the deployments of rerankers that are decoders consist of, and what they are refused for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import read_parameters, read_settings
from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings, RerankerHeadSettings, TokenizerSettings
from flagtriton_tools.deploy.budgets import TOKEN_BUDGETS
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import CheckpointFacts, inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.errors import ToolError
from tests.support import folders
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.tiny import make_decoder

BASE, LAYERWISE, LIGHTWEIGHT = "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
LAYERWISE_CLASSES = [LAYERWISE, LIGHTWEIGHT]
CLASSES = [BASE, *LAYERWISE_CLASSES]
MODEL_TYPES = {BASE: "gemma", LAYERWISE: "minicpm", LIGHTWEIGHT: "cost_wise_gemma"}
STEPS = ["ranker_tokenizer", "ranker_encoder", "ranker_scorer"]
ASKED_TO_RERANK = {"task": "rerank"}
"""What a causal language model does not tell of itself."""


def facts(model_class: str, **known: Any) -> CheckpointFacts:
    given = {"source": "org/ranker", "name": "ranker", "task": "rerank", "pooling_method": None, "max_length": 2048}
    return folders.facts(**{**given, "model_class": model_class, "model_type": MODEL_TYPES.get(model_class), **known})


def models(model_class: str, **chosen: Any) -> dict[str, Model]:
    return {model.name: model for model in build(facts(model_class), AddOptions(**chosen))}


def settings(cls: type, model: Model) -> Any:
    parameters = {name: {"string_value": value.string_value} for name, value in model.config.parameters.items()}
    config = json.dumps({"parameters": parameters})  # as Triton hands it over, empty values included
    return read_settings(cls, {"model_config": config})


def tensors(of: Any) -> dict[str, tuple[int, list[int]]]:
    """Return datatype and dims of inputs or outputs by name; Triton's number of INT32 is 8, of FP32 11."""
    return {each.name: (each.data_type, list(each.dims)) for each in of}


def deployment(model_class: str, **chosen: Any) -> Deployment:
    parameters = models(model_class, **chosen)["ranker"].config.parameters
    return read_parameters(Deployment, {name: value.string_value for name, value in parameters.items()})


@pytest.mark.parametrize(
    ("model_class", "encoder"),
    [(BASE, "encoder"), *((each, "layerwise_encoder") for each in (LAYERWISE, LIGHTWEIGHT))],
)
def test_an_ensemble_and_three_steps_stand_for_it(model_class: str, encoder: str) -> None:
    found = {name: model.step for name, model in models(model_class).items()}
    assert found == {
        "ranker": None,
        "ranker_tokenizer": "tokenizer",
        "ranker_encoder": encoder,
        "ranker_scorer": "reranker_scorer",
    }
    assert next(iter(found)) == "ranker"


@pytest.mark.parametrize(("model_class", "dims"), [(BASE, [1]), (LAYERWISE, [-1]), (LIGHTWEIGHT, [-1])])
def test_a_pair_goes_in_and_a_score_or_one_a_layer_comes_out(model_class: str, dims: list[int]) -> None:
    found = models(model_class)
    ensemble = found["ranker"].config
    assert {name: dims for name, (_, dims) in tensors(ensemble.input).items()} == {"query": [1], "passage": [1]}
    assert tensors(ensemble.output) == {"score": (11, dims), "token_count": (8, [1])}
    assert tensors(found["ranker_scorer"].config.output) == {"score": (11, dims)}


@pytest.mark.parametrize("model_class", CLASSES)
def test_only_layered_steps_learn_where_a_passage_is(model_class: str) -> None:
    parts = {"passage_start": (8, [1]), "passage_end": (8, [1])} if model_class in LAYERWISE_CLASSES else {}
    tokenizer, encoder = (models(model_class)[name].config for name in STEPS[:2])
    ids = {"input_ids": (8, [-1])}
    assert tensors(tokenizer.output) == {**ids, "token_count": (8, [1]), **parts}
    assert tensors(encoder.input) == {**ids, **parts}


@pytest.mark.parametrize("model_class", CLASSES)
def test_every_tensor_reaches_the_step_that_reads_it(model_class: str) -> None:
    found = models(model_class)
    known = {each.name for each in found["ranker"].config.input}
    for name, step in zip(STEPS, found["ranker"].config.ensemble_scheduling.step, strict=True):
        config = found[name].config
        assert step.model_name == name
        assert set(step.input_map) == {each.name for each in config.input}
        assert set(step.output_map) == {each.name for each in config.output}
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert {each.name for each in found["ranker"].config.output} <= known


def test_a_plain_decoder_sends_the_last_tokens_states() -> None:
    found = models(BASE, precision="fp16", max_length=600, revision="v2")
    queue = {"queue_requests": 128, "queue_tokens": 131_072, "queue_timeout_s": 60.0}
    expected = EncoderSettings("org/ranker", 2048, TOKEN_BUDGETS["cpu"], "fp16", "last", revision="v2", **queue)
    assert settings(EncoderSettings, found["ranker_encoder"]) == expected


@pytest.mark.parametrize("model_class", LAYERWISE_CLASSES)
def test_a_layered_decoder_is_told_its_class(model_class: str) -> None:
    found = models(model_class, precision="fp16", max_length=600, revision="v2", token_budget=99)
    queue = {"queue_requests": 64, "queue_tokens": 32 * 99, "queue_timeout_s": 60.0}
    expected = LayerwiseSettings("org/ranker", model_class, 2048, 99, "fp16", "v2", **queue)
    assert settings(LayerwiseSettings, found["ranker_encoder"]) == expected


@pytest.mark.parametrize("model_class", CLASSES)
def test_the_tokenizer_and_the_scorer_are_told_their_class(model_class: str) -> None:
    found = models(model_class, precision="fp16", revision="v2", passage_instruction_format="{} {}")
    tokenizer = settings(TokenizerSettings, found["ranker_tokenizer"])
    instructions = {"query_instruction": "A: ", "passage_instruction": "B: ", "passage_instruction_format": "{} {}"}
    given = {"revision": "v2", "joins_pairs": True, **instructions}
    assert tokenizer == TokenizerSettings("org/ranker", 2048, model_class, **given)
    scorer = settings(RerankerHeadSettings, found["ranker_scorer"])
    assert scorer == RerankerHeadSettings("org/ranker", "fp16", "cpu", "v2", model_class)


@pytest.mark.parametrize("model_class", CLASSES)
def test_no_step_looks_like_a_deployment_of_its_own(model_class: str) -> None:
    keys = {"task", "model_class", "checkpoint"}  # what the SDK takes for a public ensemble has them
    assert [name for name, model in models(model_class).items() if keys <= set(model.config.parameters)] == ["ranker"]


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, ("A: ", "B: ")), ({"query_instruction": ""}, ("", "B: ")), ({"passage_instruction": "P"}, ("A: ", "P"))],
)
def test_instructions_are_the_classs_unless_others_or_empty_ones_are_given(
    model_class: str, chosen: dict[str, str], expected: tuple[str, str]
) -> None:
    shown = deployment(model_class, **chosen)
    told = settings(TokenizerSettings, models(model_class, **chosen)["ranker_tokenizer"])
    for each in (shown, told):
        assert (each.query_instruction, each.passage_instruction) == expected


def test_an_embedder_of_the_same_class_has_no_instruction_of_its_own() -> None:
    (tokenizer,) = (each for each in build(facts(BASE, task="embed"), AddOptions()) if each.step == "tokenizer")
    assert settings(TokenizerSettings, tokenizer).query_instruction is None


@pytest.mark.parametrize("model_class", [*CLASSES, "encoder-only-base"])
def test_a_query_may_have_1024_candidates_unless_another_number_is_said(model_class: str) -> None:
    for chosen, rows in (({}, 1024), ({"max_batch_size": 7}, 7), ({"max_batch_size": 4096}, 4096)):
        assert {model.config.max_batch_size for model in models(model_class, **chosen).values()} == {rows}


def test_an_embedders_requests_have_256_texts() -> None:
    for model in build(facts(BASE, task="embed"), AddOptions()):
        assert model.config.max_batch_size == 256


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_adapter_is_shown_and_told_to_the_steps_that_load_weights(model_class: str) -> None:
    found = models(model_class, peft="maker/lora")
    having = [name for name, model in found.items() if "peft" in model.config.parameters]
    assert having == ["ranker", "ranker_encoder", "ranker_scorer"]
    assert {found[name].config.parameters["peft"].string_value for name in having} == {"maker/lora"}


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"pool_in_encoder": True}, "--pool-in-encoder: ranker is a reranker, whose own head makes its scores"),
        ({"pooling_method": "last_token"}, "--pooling: ranker is a reranker, whose own head makes its scores"),
        ({"colbert_dim": 8}, "--colbert-dim is 8, but ranker has no ColBERT vectors"),
        ({"colbert_dtype": "fp16"}, "--colbert-dtype is fp16, but ranker has no ColBERT vectors"),
        ({"trust_remote_code": True}, "--trust-remote-code: ranker is decoder-only-"),
        ({"max_length": 4096}, "--max-length is 4096, but org/ranker has positions for 2048 tokens"),
    ],
)
def test_an_option_that_a_reranker_has_not_is_refused(model_class: str, chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolError, match=f"^{said}"):
        models(model_class, **chosen)


def test_an_adapter_for_an_encoder_reranker_is_refused() -> None:
    with pytest.raises(ToolError, match=r"^--peft: ranker is an encoder reranker; adapters are for LLM rerankers"):
        models("encoder-only-base", peft="maker/lora")


@pytest.mark.parametrize("model_class", LAYERWISE_CLASSES)
def test_a_layered_reranker_is_not_spread_over_gpus(model_class: str) -> None:
    with pytest.raises(ToolError, match=f"^--shard: ranker is {model_class}, which runs on one device"):
        models(model_class, shard=True, device="gpu:0,1")


def test_a_plain_decoder_may_be_spread_over_gpus() -> None:
    encoder = models(BASE, shard=True, device="gpu:0,1")["ranker_encoder"]
    assert settings(EncoderSettings, encoder).shard == "0,1"


@pytest.mark.parametrize("model_class", CLASSES)
def test_on_a_gpu_the_encoder_is_there_in_bf16_and_the_scorer_beside_it_on_the_processor(model_class: str) -> None:
    found = models(model_class, device="gpu:1", instances=2)
    group = {name: found[name].config.instance_group[0] for name in STEPS}
    kinds = {name: (each.Kind.Name(each.kind), list(each.gpus), each.count) for name, each in group.items()}
    cpu = ("KIND_CPU", [], 1)
    assert kinds == dict(zip(STEPS, [cpu, ("KIND_GPU", [1], 2), cpu], strict=True))
    encoder = settings(
        LayerwiseSettings if model_class in LAYERWISE_CLASSES else EncoderSettings, found["ranker_encoder"]
    )
    scorer = settings(RerankerHeadSettings, found["ranker_scorer"])
    assert (encoder.precision, encoder.token_budget) == ("bf16", TOKEN_BUDGETS["gpu"])
    assert (scorer.precision, scorer.device) == ("bf16", "gpu")
    assert deployment(model_class, device="gpu:1").precision == "auto"


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_precision_that_is_said_and_auto_on_a_processor_are_told_as_they_are(model_class: str) -> None:
    for chosen in ({"precision": "fp16", "device": "gpu:0"}, {"precision": "auto", "device": "cpu"}):
        found = models(model_class, **chosen)
        told = {found[name].config.parameters["precision"].string_value for name in ("ranker", *STEPS[1:])}
        assert told == {chosen["precision"]}


@pytest.mark.parametrize("model_class", CLASSES)
def test_texts_go_end_to_end_through_all_of_them(model_class: str) -> None:
    assert deployment(model_class).attention == "packed"


@pytest.mark.parametrize(("make", "model_class"), [(make_layerwise, LAYERWISE), (make_lightweight, LIGHTWEIGHT)])
def test_a_layered_checkpoint_is_known_by_its_architecture_and_needs_no_code_of_its_own(
    make: Any, model_class: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "mine")
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    found = inspect_checkpoint(str(folder))
    assert (found.task, found.model_class, found.trust_remote_code) == ("rerank", model_class, False)
    assert (found.hidden_size, found.max_length) == (48, {LAYERWISE: 2048, LIGHTWEIGHT: 8192}[model_class])
    ensemble, *steps = build(found, AddOptions())
    assert [step.step for step in steps] == ["tokenizer", "layerwise_encoder", "reranker_scorer"]
    assert ensemble.config.parameters["model_class"].string_value == model_class


def test_another_checkpoint_with_code_of_its_own_still_needs_permission(tmp_path: Path) -> None:
    found = inspect_checkpoint(str(make_layerwise(tmp_path / "mine", architectures=["OtherForCausalLM"])))
    assert (found.task, found.trust_remote_code) == (None, True)


def test_a_causal_language_model_has_to_be_told_to_rerank(tmp_path: Path) -> None:
    found = inspect_checkpoint(str(make_decoder(tmp_path / "mine", "gemma", head=True)))
    with pytest.raises(ToolError, match="may be an embedder or a reranker"):
        build(found, AddOptions())
    ensemble, *_ = build(found, AddOptions(**ASKED_TO_RERANK))
    assert [each.name for each in ensemble.config.input] == ["query", "passage"]


@pytest.mark.parametrize(
    ("name", "model_class", "max_length"),
    [
        ("bge-reranker-v2-gemma", BASE, 8192),
        ("bge-reranker-v2-minicpm-layerwise", LAYERWISE, 2048),
        ("bge-reranker-v2.5-gemma2-lightweight", LIGHTWEIGHT, 8192),
    ],
)
def test_published_ones_are_known_by_name(name: str, model_class: str, max_length: int) -> None:
    ensemble, *_ = build(inspect_checkpoint(f"BAAI/{name}"), AddOptions())
    shown = {key: ensemble.config.parameters[key].string_value for key in ("task", "model_class", "max_length")}
    assert shown == {"task": "rerank", "model_class": model_class, "max_length": str(max_length)}


def test_a_smaller_max_length_leaves_rows_their_positions() -> None:
    smaller = models(LAYERWISE, max_length=600)
    assert settings(TokenizerSettings, smaller["ranker_tokenizer"]).max_length == 600
    assert settings(TokenizerSettings, smaller["ranker_tokenizer"]).positions == 2048
    assert settings(LayerwiseSettings, smaller["ranker_encoder"]).max_length == 2048
    assert settings(TokenizerSettings, models(LAYERWISE)["ranker_tokenizer"]).positions is None


def test_code_beside_an_llm_is_not_asked_for_in_a_circle() -> None:
    brought = facts(BASE, trust_remote_code=True)
    with pytest.raises(ToolError, match=r"is not run for LLM rerankers; say --no-trust-remote-code where"):
        build(brought, AddOptions())
    assert build(brought, AddOptions(trust_remote_code=False))
    assert build(facts(LIGHTWEIGHT, trust_remote_code=True), AddOptions())
