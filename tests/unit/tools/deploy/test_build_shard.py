# SPDX-License-Identifier: Apache-2.0
"""`flagtriton add --shard`: one instance over several GPUs, from the option to the step's configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import read_parameters
from flagtriton.protocol.settings import EncoderSettings, PoolerSettings
from flagtriton_tools.cli.main import main
from flagtriton_tools.deploy.build import build, describe
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import add_models
from tests.support.folders import facts

SHARDED = AddOptions(device="gpu:0,1", shard=True)
DECODER = facts(model_class="decoder-only-icl", pooling_method=None, model_type="mistral")


def configs(options: AddOptions, **changes: str) -> dict[str, ModelConfig]:
    return {model.name: model.config for model in build(facts(**changes), options)}


def settings(cls: type, config: ModelConfig) -> object:
    return read_parameters(cls, {name: value.string_value for name, value in config.parameters.items()})


def test_triton_runs_one_instance_that_places_its_weights_itself() -> None:
    (group,) = configs(SHARDED)["tiny_encoder"].instance_group
    assert (group.kind, group.count, list(group.gpus)) == (ModelInstanceGroup.KIND_MODEL, 1, [])


def test_the_encoder_is_told_which_gpus_it_is_spread_over() -> None:
    told = settings(EncoderSettings, configs(AddOptions(device="gpu:3,1,10", shard=True))["tiny_encoder"])
    assert isinstance(told, EncoderSettings)
    assert (told.shard, told.token_budget) == ("3,1,10", 65_536)


def test_the_deployment_says_that_it_is_spread() -> None:
    served = settings(Deployment, configs(SHARDED)["tiny"])
    assert served == describe(facts(), SHARDED)
    assert isinstance(served, Deployment)
    assert (served.shard, served.device) == (True, "gpu:0,1")


def test_without_the_option_each_gpu_has_its_own_instance() -> None:
    encoder = configs(AddOptions(device="gpu:0,1"))["tiny_encoder"]
    (group,) = encoder.instance_group
    assert (group.kind, list(group.gpus)) == (ModelInstanceGroup.KIND_GPU, [0, 1])
    assert "shard" not in encoder.parameters
    assert not describe(facts(), AddOptions(device="gpu:0,1")).shard


def test_other_steps_are_where_they_would_be_without_it() -> None:
    built = configs(SHARDED)
    for step in ("tokenizer", "pooler"):
        (group,) = built[f"tiny_{step}"].instance_group
        assert (group.kind, group.count) == (ModelInstanceGroup.KIND_CPU, 1)


def test_the_pooler_expects_what_a_gpu_sends() -> None:
    built = {model.name: model.config for model in build(DECODER, SHARDED)}
    assert settings(PoolerSettings, built["tiny_pooler"]) == PoolerSettings("last_token", "bf16", "gpu", "last")


@pytest.mark.parametrize(
    ("device", "instances"), [("cpu", 1), ("gpu:0", 1), ("gpu:1,1", 1), ("gpu:0,1", 2), ("cpu", 2)]
)
def test_less_than_two_gpus_or_more_than_one_instance_are_refused(device: str, instances: int) -> None:
    sentence = (
        f"--shard spreads one instance over several GPUs, but --device is {device} and --instances {instances}; "
        "say for example --shard --device gpu:0,1"
    )
    with pytest.raises(ToolError, match=f"^{sentence}$"):
        build(facts(), AddOptions(device=device, instances=instances, shard=True))


def test_the_list_shows_what_is_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, shard in (("apart", False), ("spread", True)):
        add_models(build(facts(), AddOptions(name=name, device="gpu:0,1", shard=shard)), tmp_path / "repo")
    assert main(["list", "--repository", str(tmp_path / "repo")]) == 0
    _, apart, spread = capsys.readouterr().out.splitlines()
    assert "gpu:0,1 sharded" in spread
    assert "sharded" not in apart
    assert main(["list", "--json", "--repository", str(tmp_path / "repo")]) == 0
    assert [json.loads(line)["shard"] for line in capsys.readouterr().out.splitlines()] == [False, True]


def test_the_option_reaches_the_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.checkpoints.tiny import make_bert

    checkpoint, repository = str(make_bert(tmp_path / "tiny")), str(tmp_path / "repo")
    assert main(["add", checkpoint, "--repository", repository, "--shard", "--device", "gpu:0,1"]) == 0
    assert main(["list", "--repository", repository]) == 0
    assert "gpu:0,1 sharded" in capsys.readouterr().out
    assert main(["add", checkpoint, "--repository", repository, "--force", "--shard"]) == 2
    assert "--device is cpu and --instances 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_class", "told"),
    [("decoder-only-pseudo_moe", True), ("decoder-only-base", False), ("encoder-only-base", False)],
)
def test_steps_of_a_pseudo_moe_model_know_that_they_are(model_class: str, told: bool) -> None:
    built = configs(AddOptions(pooling_method="last_token"), model_class=model_class)
    encoder = settings(EncoderSettings, built["tiny_encoder"])
    pooler = settings(PoolerSettings, built["tiny_pooler"])
    assert isinstance(encoder, EncoderSettings)
    assert isinstance(pooler, PoolerSettings)
    assert (encoder.pseudo_moe, pooler.pseudo_moe) == (told, told)
