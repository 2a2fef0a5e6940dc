# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.deploy.build`: options and facts become an ensemble and its steps."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import read_parameters
from flagtriton.protocol.settings import EncoderSettings, PoolerSettings, TokenizerSettings
from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from tests.support.folders import facts

both_poolings = pytest.mark.parametrize("pool_in_encoder", [False, True], ids=["pooler", "pooled in the encoder"])


def configs(options: AddOptions | None = None, **changes: Any) -> dict[str, ModelConfig]:
    return {model.name: model.config for model in build(facts(**changes), options or AddOptions())}


def parameters(config: ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def test_the_checkpoints_facts_fill_what_the_user_left_open() -> None:
    assert describe(facts(), AddOptions()) == Deployment(
        task="embed",
        model_class="encoder-only-base",
        checkpoint="maker/tiny",
        pooling_method="mean",
        max_length=512,
        precision="auto",
        device="cpu",
        hidden_size=48,
    )


def test_the_users_word_comes_before_the_checkpoints() -> None:
    options = AddOptions(
        pooling_method="cls", max_length=64, precision="fp32", device="gpu:1", query_instruction_format="<{}>{}"
    )
    served = describe(facts(query_instruction_format="{} {}"), options)
    assert (served.pooling_method, served.max_length, served.precision, served.device) == ("cls", 64, "fp32", "gpu:1")
    assert served.query_instruction_format == "<{}>{}"


def test_instructions_are_served_as_given() -> None:
    served = describe(facts(), AddOptions(query_instruction="", passage_instruction="p: "))
    assert (served.query_instruction, served.passage_instruction) == ("", "p: ")


@pytest.mark.parametrize(("model_type", "attention"), [("bert", "packed"), ("mpnet", "padded"), (None, None)])
def test_how_texts_go_through_the_model_is_said_where_its_architecture_is_known(
    model_type: str | None, attention: str | None
) -> None:
    assert describe(facts(model_type=model_type), AddOptions()).attention == attention


def test_code_that_comes_with_a_checkpoint_is_served_padded() -> None:
    served = describe(facts(model_type="bert"), AddOptions(trust_remote_code=True))
    assert (served.attention, served.trust_remote_code) == ("padded", True)


def test_a_max_length_that_nobody_knows_is_512() -> None:
    assert describe(facts(max_length=None), AddOptions()).max_length == 512


def test_a_max_length_beyond_the_checkpoints_is_refused() -> None:
    with pytest.raises(ToolError, match="--max-length is 513, but maker/tiny has positions for 512 tokens"):
        describe(facts(), AddOptions(max_length=513))


def test_a_max_length_of_an_unknown_checkpoint_is_taken_at_its_word() -> None:
    assert describe(facts(max_length=None), AddOptions(max_length=2048)).max_length == 2048


def test_a_task_that_nobody_knows_has_to_be_said() -> None:
    with pytest.raises(ToolError, match="say --task embed or --task rerank"):
        describe(facts(task=None), AddOptions())


def test_a_model_class_that_nobody_knows_has_to_be_said() -> None:
    with pytest.raises(ToolError, match="say --model-class"):
        describe(facts(model_class=None), AddOptions())


def test_remote_code_runs_where_the_user_says_so() -> None:
    assert describe(facts(), AddOptions(trust_remote_code=True)).trust_remote_code


def test_remote_code_does_not_run_because_of_a_checkpoints_name() -> None:
    # Anybody may publish maker/gte-base-en-v1.5: the model table knows that it needs code, not whose it is.
    with pytest.raises(ToolError, match="say --trust-remote-code"):
        describe(facts(trust_remote_code=True), AddOptions())


def test_code_that_a_checkpoint_is_known_for_may_be_declined() -> None:
    assert not describe(facts(trust_remote_code=True), AddOptions(trust_remote_code=False)).trust_remote_code


def test_an_embedder_is_an_ensemble_and_three_steps() -> None:
    built = [(model.name, model.step) for model in build(facts(), AddOptions())]
    assert built == [
        ("tiny", None),
        ("tiny_tokenizer", "tokenizer"),
        ("tiny_encoder", "encoder"),
        ("tiny_pooler", "pooler"),
    ]


def test_an_embedder_that_pools_in_the_encoder_is_an_ensemble_and_two_steps() -> None:
    built = [(model.name, model.step) for model in build(facts(), AddOptions(pool_in_encoder=True))]
    assert built == [("tiny", None), ("tiny_tokenizer", "tokenizer"), ("tiny_encoder", "encoder")]


def test_an_encoder_that_pools_is_told_how_and_gives_embeddings() -> None:
    built = configs(AddOptions(pool_in_encoder=True, pooling_method="last_token"))
    assert read_parameters(EncoderSettings, parameters(built["tiny_encoder"])).pooling_method == "last_token"
    assert [tensor.name for tensor in built["tiny_encoder"].output] == ["dense_vecs"]
    assert [step.model_name for step in built["tiny"].ensemble_scheduling.step] == ["tiny_tokenizer", "tiny_encoder"]


@both_poolings
def test_pooling_in_the_encoder_is_nothing_that_a_client_sees(pool_in_encoder: bool) -> None:
    ensemble = configs(AddOptions(pool_in_encoder=pool_in_encoder))["tiny"]
    assert [tensor.name for tensor in ensemble.output] == ["dense_vecs", "token_count"]
    assert read_parameters(Deployment, parameters(ensemble)) == describe(facts(), AddOptions())


def test_a_name_of_the_users_names_every_folder() -> None:
    assert list(configs(AddOptions(name="mine-1.0"))) == [
        "mine-1.0",
        "mine-1.0_tokenizer",
        "mine-1.0_encoder",
        "mine-1.0_pooler",
    ]


def test_the_ensemble_runs_its_steps_in_order() -> None:
    steps = [step.model_name for step in configs()["tiny"].ensemble_scheduling.step]
    assert steps == ["tiny_tokenizer", "tiny_encoder", "tiny_pooler"]


def test_the_ensemble_takes_text_and_gives_embeddings_and_token_counts() -> None:
    ensemble = configs()["tiny"]
    assert [tensor.name for tensor in ensemble.input] == ["text"]
    assert [tensor.name for tensor in ensemble.output] == ["dense_vecs", "token_count"]


@both_poolings
def test_no_output_of_the_ensemble_is_read_by_a_step(pool_in_encoder: bool) -> None:
    # Triton answers "unexpected deadlock" where only some outputs are asked for.
    ensemble = configs(AddOptions(pool_in_encoder=pool_in_encoder))["tiny"]
    read = {tensor for step in ensemble.ensemble_scheduling.step for tensor in step.input_map.values()}
    assert read.isdisjoint(tensor.name for tensor in ensemble.output)


@both_poolings
def test_every_tensor_of_a_step_is_mapped_in_the_ensemble(pool_in_encoder: bool) -> None:
    built = configs(AddOptions(pool_in_encoder=pool_in_encoder))
    for step in built["tiny"].ensemble_scheduling.step:
        config = built[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in config.input}
        assert set(step.output_map) == {tensor.name for tensor in config.output}


def test_the_ensemble_says_what_it_serves() -> None:
    options = AddOptions(query_instruction="find: ", revision="v2")
    served = read_parameters(Deployment, parameters(configs(options)["tiny"]))
    assert served == describe(facts(), options)


def test_the_tokenizer_is_told_lengths_and_instructions() -> None:
    options = AddOptions(max_length=64, query_instruction="q: ", passage_instruction="p: ", revision="v2")
    settings = read_parameters(TokenizerSettings, parameters(configs(options)["tiny_tokenizer"]))
    assert settings == TokenizerSettings(
        "maker/tiny", 64, revision="v2", query_instruction="q: ", passage_instruction="p: "
    )


def test_the_encoder_is_told_precision_and_length() -> None:
    options = AddOptions(max_length=64, precision="bf16", revision="v2")
    settings = read_parameters(EncoderSettings, parameters(configs(options)["tiny_encoder"]))
    queue = {"queue_requests": 128, "queue_tokens": 131_072, "queue_timeout_s": 60.0}
    assert settings == EncoderSettings("maker/tiny", 64, token_budget=4096, precision="bf16", revision="v2", **queue)


@pytest.mark.parametrize(("pooling_method", "rows"), [("cls", "first"), ("last_token", "last"), ("mean", "all")])
def test_the_encoder_sends_the_rows_that_pooling_reads(pooling_method: str, rows: str) -> None:
    built = configs(AddOptions(pooling_method=pooling_method))
    assert read_parameters(EncoderSettings, parameters(built["tiny_encoder"])).rows == rows
    assert read_parameters(PoolerSettings, parameters(built["tiny_pooler"])).pooling_method == pooling_method


def test_the_encoder_leaves_pooling_to_the_pooler_unless_told() -> None:
    assert read_parameters(EncoderSettings, parameters(configs()["tiny_encoder"])).pooling_method is None


@pytest.mark.parametrize("device", ["cpu", "gpu:0"])
def test_a_token_budget_of_the_users_comes_before_the_devices(device: str) -> None:
    encoder = configs(AddOptions(device=device, token_budget=1000))["tiny_encoder"]
    assert read_parameters(EncoderSettings, parameters(encoder)).token_budget == 1000


def test_the_encoder_has_a_greater_token_budget_on_a_gpu() -> None:
    settings = read_parameters(EncoderSettings, parameters(configs(AddOptions(device="gpu:0"))["tiny_encoder"]))
    assert settings.token_budget == 65536


def test_the_pooler_is_told_its_method() -> None:
    assert read_parameters(PoolerSettings, parameters(configs()["tiny_pooler"])) == PoolerSettings("mean")


@pytest.mark.parametrize(("device", "kind"), [("cpu", "cpu"), ("gpu:0,1", "gpu")])
def test_the_pooler_is_told_what_the_encoder_computes_in_and_where(device: str, kind: str) -> None:
    pooler = configs(AddOptions(device=device, precision="bf16"))["tiny_pooler"]
    assert read_parameters(PoolerSettings, parameters(pooler)) == PoolerSettings("mean", "bf16", kind)


def test_only_the_encoder_runs_on_the_users_device() -> None:
    built = configs(AddOptions(device="gpu:0,1", instances=2))
    assert list(built["tiny_encoder"].instance_group[0].gpus) == [0, 1]
    assert built["tiny_encoder"].instance_group[0].count == 2
    assert not built["tiny_tokenizer"].instance_group[0].gpus
    assert not built["tiny_pooler"].instance_group[0].gpus


def test_the_tokenizer_has_as_many_instances_as_the_user_says() -> None:
    built = configs(AddOptions(tokenizer_instances=3, instances=2))
    counts = [built[f"tiny_{step}"].instance_group[0].count for step in ("tokenizer", "encoder", "pooler")]
    assert counts == [3, 2, 1]


def test_an_ensemble_has_no_instances_and_no_warm_up() -> None:
    ensemble = configs()["tiny"]
    assert not ensemble.instance_group
    assert not ensemble.model_warmup


def test_all_folders_take_batches_of_the_same_size() -> None:
    built = configs(AddOptions(max_batch_size=32))
    assert {config.max_batch_size for config in built.values()} == {32}


def warmed_tokens(max_length: int) -> list[int]:
    encoder = configs(AddOptions(max_length=max_length))["tiny_encoder"]
    return [warmup.inputs["input_ids"].dims[0] for warmup in encoder.model_warmup]


def test_the_encoder_is_warmed_up_with_a_short_and_a_longer_text() -> None:
    assert warmed_tokens(512) == [16, 256]


def test_no_warm_up_is_longer_than_the_deployment_takes() -> None:
    assert warmed_tokens(255) == [16]


@pytest.mark.parametrize("name", ["", "two words", "a/b", "-x", ".x", "..", "naïve"])
def test_a_name_that_is_no_folders_is_refused(name: str) -> None:
    with pytest.raises(ToolError, match="pass --name"):
        build(facts(name=name), AddOptions())


def test_a_class_that_is_not_served_is_refused_with_those_that_are() -> None:
    with pytest.raises(ToolError, match=r"is rerank encoder-only-m3.* it serves embed encoder-only-base"):
        build(facts(task="rerank", model_class="encoder-only-m3"), AddOptions())


def test_a_bad_device_is_refused() -> None:
    with pytest.raises(ToolError, match="--device is 'tpu'"):
        build(facts(), AddOptions(device="tpu"))


@pytest.mark.parametrize("instruction_format", ["{}{}{}", "{instruction} {}", "{", "no field"])
def test_an_instruction_format_that_cannot_be_filled_is_refused_when_it_is_added(instruction_format: str) -> None:
    # Found at a request, it would fail every request of the batch.
    with pytest.raises(ToolError, match="query-instruction-format"):
        build(facts(), AddOptions(query_instruction="find", query_instruction_format=instruction_format))


@pytest.mark.parametrize("name", ["models--BAAI--bge-m3", "bge-v1___5"])
def test_a_name_by_which_the_sdk_would_not_find_it_is_refused(name: str) -> None:
    with pytest.raises(ToolError, match=rf"the name is '{name}', which the SDK would take for a path of .*--name"):
        build(facts(), AddOptions(name=name))
