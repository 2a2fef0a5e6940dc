# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.build` and `.steps`: BGE-M3, of which two ensembles share one encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import read_parameters
from flagtriton.protocol.settings import (
    ColbertSettings,
    DenseSparseSettings,
    EncoderSettings,
    ScorerSettings,
    TokenizerSettings,
)
from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.ensembles import PART_OF
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from tests.support.folders import facts

STEPS = ("tokenizer", "encoder", "dense_sparse", "colbert", "scorer")
ENSEMBLES = ("tiny", "tiny_score")
both_ensembles = pytest.mark.parametrize("ensemble", ENSEMBLES)


def configs(options: AddOptions | None = None, **changes: Any) -> dict[str, ModelConfig]:
    known = facts(**{"model_class": "encoder-only-m3", "pooling_method": "cls", **changes})
    return {model.name: model.config for model in build(known, options or AddOptions())}


def parameters(config: ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def served(options: AddOptions | None = None, **changes: Any) -> Deployment:
    return read_parameters(Deployment, parameters(configs(options, **changes)["tiny"]))


def input_names(config: ModelConfig) -> list[str]:
    return [tensor.name for tensor in config.input]


def output_names(config: ModelConfig) -> list[str]:
    return [tensor.name for tensor in config.output]


def test_m3_is_two_ensembles_and_five_steps_the_ensemble_of_its_name_first() -> None:
    built = [(model.name, model.step) for model in build(facts(model_class="encoder-only-m3"), AddOptions())]
    assert built == [("tiny", None), ("tiny_score", None), *((f"tiny_{step}", step) for step in STEPS)]


def test_the_first_ensemble_takes_text_and_gives_all_three_outputs() -> None:
    ensemble = configs()["tiny"]
    assert input_names(ensemble) == ["text"]
    assert output_names(ensemble) == [
        "dense_vecs",
        "sparse_ids",
        "sparse_weights",
        "colbert_vecs",
        "colbert_lengths",
        "token_count",
    ]


def test_the_second_ensemble_takes_pairs_and_gives_five_scores() -> None:
    ensemble = configs()["tiny_score"]
    assert input_names(ensemble) == ["query", "passage"]
    assert output_names(ensemble) == ["colbert", "sparse", "dense", "sparse_dense", "colbert_sparse_dense"]


def test_each_ensemble_runs_the_steps_it_needs() -> None:
    built = configs()
    steps = {name: [step.model_name for step in built[name].ensemble_scheduling.step] for name in ENSEMBLES}
    assert steps == {
        "tiny": ["tiny_tokenizer", "tiny_encoder", "tiny_dense_sparse", "tiny_colbert"],
        "tiny_score": ["tiny_tokenizer", "tiny_encoder", "tiny_scorer"],
    }


def test_queries_and_passages_go_through_the_encoder_together() -> None:
    _, encoder, _ = configs()["tiny_score"].ensemble_scheduling.step
    assert dict(encoder.input_map) == {"input_ids": "query_ids", "passage_ids": "passage_ids"}
    assert dict(encoder.output_map) == {"hidden_states": "query_states", "passage_states": "passage_states"}


@both_ensembles
def test_no_two_steps_are_ready_at_once(ensemble: str) -> None:
    # Triton 24.10 ends with signal 11 where they are, and the client has left.
    config = configs()[ensemble]
    made, waiting = {tensor.name for tensor in config.input}, list(config.ensemble_scheduling.step)
    while waiting:
        (ready,) = [step for step in waiting if made.issuperset(step.input_map.values())]
        waiting.remove(ready)
        made.update(ready.output_map.values())


@both_ensembles
def test_what_a_step_is_given_is_of_the_type_it_takes(ensemble: str) -> None:
    built = configs(AddOptions(colbert_dtype="fp16"))
    types = {tensor.name: tensor.data_type for tensor in built[ensemble].input}
    for step in built[ensemble].ensemble_scheduling.step:
        inputs = {tensor.name: tensor.data_type for tensor in built[step.model_name].input}
        outputs = {tensor.name: tensor.data_type for tensor in built[step.model_name].output}
        assert {name: types[source] for name, source in step.input_map.items()}.items() <= inputs.items()
        types.update({target: outputs[name] for name, target in step.output_map.items()})
    assert {tensor.name: tensor.data_type for tensor in built[ensemble].output}.items() <= types.items()


@both_ensembles
def test_every_input_of_a_step_is_mapped_unless_it_is_optional(ensemble: str) -> None:
    built = configs()
    for step in built[ensemble].ensemble_scheduling.step:
        needed = {tensor.name for tensor in built[step.model_name].input if not tensor.optional}
        assert needed <= set(step.input_map)


@both_ensembles
def test_no_output_of_an_ensemble_is_read_by_a_step(ensemble: str) -> None:
    # Triton answers "unexpected deadlock" where only some outputs are asked for.
    config = configs()[ensemble]
    read = {tensor for step in config.ensemble_scheduling.step for tensor in step.input_map.values()}
    assert read.isdisjoint(output_names(config))


def test_the_tokenizers_inputs_and_the_encoders_passages_are_optional() -> None:
    optional = {(name, t.name) for name, config in configs().items() for t in config.input if t.optional}
    of_tokenizer = {("tiny_tokenizer", name) for name in ("text", "query", "passage", "token_id")}
    assert optional == of_tokenizer | {("tiny_encoder", "passage_ids")}


def test_the_tokenizer_of_a_plain_embedder_needs_its_text() -> None:
    tokenizer = configs(model_class="encoder-only-base")["tiny_tokenizer"]
    assert [(tensor.name, tensor.optional) for tensor in tokenizer.input] == [("text", False)]
    assert output_names(tokenizer) == ["input_ids", "token_count"]


def test_the_tokenizer_gives_ids_of_texts_and_pairs_and_tokens_of_ids() -> None:
    assert output_names(configs()["tiny_tokenizer"]) == [
        "input_ids",
        "token_count",
        "query_ids",
        "passage_ids",
        "query_rows",
        "passage_rows",
        "unweighted_ids",
        "token",
    ]


def test_the_first_ensemble_says_what_it_serves() -> None:
    options = AddOptions(query_instruction="find: ", revision="v2")
    known = facts(model_class="encoder-only-m3", pooling_method="cls")
    assert served(options) == replace(describe(known, options), colbert_dim=48, colbert_dtype="fp32")


def test_the_second_ensemble_says_only_what_it_is_part_of() -> None:
    assert parameters(configs(AddOptions(name="mine"))["mine_score"]) == {PART_OF: "mine"}


def test_colbert_vectors_are_as_long_as_hidden_states_and_float32_unless_told() -> None:
    assert (served().colbert_dim, served().colbert_dtype) == (48, "fp32")
    assert served(AddOptions(colbert_dim=16, colbert_dtype="fp16")).colbert_dim == 16


def test_colbert_vectors_of_an_unknown_hidden_size_are_as_the_checkpoint_has_them() -> None:
    built = configs(hidden_size=None)
    assert read_parameters(ColbertSettings, parameters(built["tiny_colbert"])).colbert_dim is None
    assert served(hidden_size=None).colbert_dim is None


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_colbert_vectors_have_the_dtype_that_json_can_carry_unless_a_request_says_otherwise(dtype: str) -> None:
    built = configs(AddOptions(colbert_dtype=dtype))
    for name in ("tiny", "tiny_colbert"):
        types = {tensor.name: DataType.Name(tensor.data_type) for tensor in built[name].output}
        assert types["colbert_vecs"] == "TYPE_FP32"
    assert read_parameters(Deployment, parameters(built["tiny"])).colbert_dtype == dtype
    assert read_parameters(Deployment, parameters(built["tiny"])).colbert_dtype_by_request is (
        True if dtype == "fp16" else None
    )
    assert read_parameters(ColbertSettings, parameters(built["tiny_colbert"])).colbert_dtype == dtype


OPTIONS = AddOptions(
    device="gpu:1", precision="bf16", revision="v2", trust_remote_code=True, colbert_dim=16, colbert_dtype="fp16"
)
QUEUE: dict[str, Any] = {"queue_requests": 2048, "queue_tokens": 2_097_152, "queue_timeout_s": 60.0}
HEAD: dict[str, Any] = {
    "checkpoint": "maker/tiny",
    "precision": "bf16",
    "device": "gpu",
    "revision": "v2",
}


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (
            "tokenizer",
            TokenizerSettings(
                "maker/tiny", 512, "encoder-only-m3", "v2", trust_remote_code=True, send_unweighted_ids=True, **QUEUE
            ),
        ),
        ("encoder", EncoderSettings("maker/tiny", 512, 65536, "bf16", "all", None, "v2", True, **QUEUE)),
        ("dense_sparse", DenseSparseSettings(**HEAD, pooling_method="cls")),
        ("colbert", ColbertSettings(**HEAD, colbert_dim=16, colbert_dtype="fp16")),
        ("scorer", ScorerSettings(**HEAD, pooling_method="cls", colbert_dim=16)),
    ],
)
def test_every_step_is_told_what_it_needs(step: str, settings: Any) -> None:
    assert read_parameters(type(settings), parameters(configs(OPTIONS)[f"tiny_{step}"])) == settings


def test_a_pooling_of_the_users_is_that_of_dense_vectors_and_dense_scores() -> None:
    built = configs(AddOptions(pooling_method="mean"))
    assert read_parameters(DenseSparseSettings, parameters(built["tiny_dense_sparse"])).pooling_method == "mean"
    assert read_parameters(ScorerSettings, parameters(built["tiny_scorer"])).pooling_method == "mean"


def test_colbert_vectors_and_scores_are_made_beside_the_encoder_and_the_rest_on_the_processor() -> None:
    built = configs(AddOptions(device="gpu:0,1", instances=2, tokenizer_instances=3))
    placed = {step: built[f"tiny_{step}"].instance_group[0] for step in STEPS}
    assert {step: (list(group.gpus), group.count) for step, group in placed.items()} == {
        "tokenizer": ([], 3),
        "encoder": ([0, 1], 2),
        "dense_sparse": ([], 1),
        "colbert": ([0, 1], 1),
        "scorer": ([0, 1], 1),
    }


def test_all_folders_of_m3_take_batches_of_the_same_size() -> None:
    assert {config.max_batch_size for config in configs(AddOptions(max_batch_size=32)).values()} == {32}


def test_m3_does_not_pool_in_the_encoder() -> None:
    with pytest.raises(ToolError, match="--pool-in-encoder: tiny needs its hidden states behind the encoder"):
        configs(AddOptions(pool_in_encoder=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (AddOptions(colbert_dim=16), "--colbert-dim is 16, but tiny has no ColBERT vectors; encoder-only-m3 has"),
        (AddOptions(colbert_dtype="fp16"), "--colbert-dtype is fp16, but tiny has no ColBERT vectors"),
    ],
)
def test_a_plain_embedder_refuses_what_is_said_of_colbert_vectors(options: AddOptions, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        configs(options, model_class="encoder-only-base")


def test_a_plain_embedder_says_nothing_of_colbert_vectors() -> None:
    plain = served(model_class="encoder-only-base")
    assert (plain.colbert_dim, plain.colbert_dtype) == (None, None)


def test_m3_served_for_its_dense_vectors_alone_is_a_plain_embedder() -> None:
    assert list(configs(AddOptions(model_class="encoder-only-base"))) == [
        "tiny",
        "tiny_tokenizer",
        "tiny_encoder",
        "tiny_pooler",
    ]
