# SPDX-License-Identifier: Apache-2.0
"""`deploy.budgets`: tokens of a forward pass, and what may wait for one, in the steps that are told it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.protocol.parameters import read_parameters
from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings, TokenizerSettings
from flagtriton_tools.cli.main import main
from flagtriton_tools.deploy.budgets import TOKEN_BUDGETS, queue_settings, token_budget
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.pbtxt import Device, read_config
from tests.support.folders import facts, write_checkpoint

CPU, GPU = Device(), Device((0,))
SAID: dict[str, Any] = {"queue_requests": 7, "queue_tokens": 1000, "queue_timeout": 2.5}

MODELS: dict[str, dict[str, Any]] = {
    "an embedder": {},
    "m3": {"model_class": "encoder-only-m3", "pooling_method": "cls"},
    "an LLM embedder": {"model_class": "decoder-only-icl", "pooling_method": "last_token", "model_type": "mistral"},
    "a reranker": {"task": "rerank"},
    "an LLM reranker": {
        "task": "rerank",
        "model_class": "decoder-only-base",
        "model_type": "gemma",
        "pooling_method": None,
    },
    "a layerwise reranker": {"task": "rerank", "model_class": "decoder-only-layerwise", "pooling_method": None},
}
each_model = pytest.mark.parametrize("known", MODELS.values(), ids=MODELS)


def limits(step: ModelConfig) -> tuple[int | None, int | None, float | None]:
    """Return what a step is told: requests, tokens and seconds."""
    told = {name: value.string_value for name, value in step.parameters.items()}
    if "token_budget" not in told:
        cls: Any = TokenizerSettings
    else:
        cls = LayerwiseSettings if "model_class" in told else EncoderSettings
    settings = read_parameters(cls, told)
    return settings.queue_requests, settings.queue_tokens, settings.queue_timeout_s


def configs(known: dict[str, Any], **chosen: Any) -> tuple[ModelConfig, ModelConfig]:
    """Return those of tokenizer and encoder."""
    built = {model.name: model.config for model in build(facts(**known), AddOptions(**chosen))}
    return built["tiny_tokenizer"], built["tiny_encoder"]


def test_a_pass_has_as_many_tokens_as_fill_the_device_unless_the_user_says_how_many() -> None:
    assert TOKEN_BUDGETS == {"cpu": 4_096, "gpu": 65_536}
    assert [token_budget(device, AddOptions()) for device in (CPU, GPU)] == [4_096, 65_536]
    assert [token_budget(device, AddOptions(token_budget=99)) for device in (CPU, GPU)] == [99, 99]


@pytest.mark.parametrize(
    ("device", "budget", "requests", "tokens"),
    [
        ("cpu", None, 128, 131_072),
        ("gpu:0,1", None, 2048, 2_097_152),
        ("cpu", 99, 64, 3_168),
        ("gpu:0", 10_000, 312, 320_000),
    ],
)
def test_what_may_wait_follows_from_the_token_budget(
    device: str, budget: int | None, requests: int, tokens: int
) -> None:
    expected = {"queue_requests": requests, "queue_tokens": tokens, "queue_timeout_s": 60.0}
    assert queue_settings(AddOptions(device=device, token_budget=budget)) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"queue_requests": 7}, (7, 131_072, 60.0)),
        ({"queue_tokens": 1000}, (128, 1000, 60.0)),
        ({"queue_timeout": 2.5}, (128, 131_072, 2.5)),
        (SAID, (7, 1000, 2.5)),
    ],
)
def test_what_the_user_says_of_the_queue_leaves_the_rest_as_it_follows(
    said: dict[str, Any], expected: tuple[int, int, float]
) -> None:
    assert tuple(queue_settings(AddOptions(**said)).values()) == expected


@each_model
def test_both_steps_are_told_what_follows_from_the_token_budget(known: dict[str, Any]) -> None:
    for chosen, requests, tokens in (
        ({}, 128, 131_072),
        ({"device": "gpu:0"}, 2048, 2_097_152),
        ({"token_budget": 99}, 64, 3_168),
    ):
        tokenizer, encoder = configs(known, **chosen)
        assert limits(tokenizer) == limits(encoder) == (requests, tokens, 60.0)


@each_model
def test_both_steps_are_told_what_the_user_says(known: dict[str, Any]) -> None:
    tokenizer, encoder = configs(known, **SAID)
    assert limits(tokenizer) == limits(encoder) == (7, 1000, 2.5)


@each_model
def test_tritons_own_queues_have_no_bounds_as_these_delay_requests_by_half_a_second(known: dict[str, Any]) -> None:
    for model in build(facts(**known), AddOptions(**SAID)):
        assert not model.config.dynamic_batching.HasField("default_queue_policy")
        assert not model.config.dynamic_batching.priority_levels


# The command line.


@pytest.fixture
def added(tmp_path: Path) -> Any:
    """Return a function that adds a checkpoint with some flags, and returns the configurations of both steps."""
    checkpoint, repository = write_checkpoint(tmp_path / "tiny"), tmp_path / "repository"

    def add(*flags: str) -> tuple[ModelConfig, ModelConfig]:
        assert main(["add", str(checkpoint), "--repository", str(repository), "--force", *flags]) == 0
        tokenizer, encoder = (
            read_config(repository / f"tiny_{step}/config.pbtxt") for step in ("tokenizer", "encoder")
        )
        return tokenizer, encoder

    return add


def test_flags_of_the_queue_are_in_the_files_of_both_steps(added: Any) -> None:
    tokenizer, encoder = added("--queue-requests", "7", "--queue-tokens", "1000", "--queue-timeout", "2.5")
    assert limits(tokenizer) == limits(encoder) == (7, 1000, 2.5)


def test_without_flags_the_files_say_what_follows_from_the_token_budget(added: Any) -> None:
    tokenizer, encoder = added()
    assert limits(tokenizer) == limits(encoder) == (128, 131_072, 60.0)
    tokenizer, encoder = added("--token-budget", "3200")
    assert limits(tokenizer) == limits(encoder) == (100, 102_400, 60.0)


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--queue-requests", "0"), ("--queue-tokens", "0"), ("--queue-timeout", "0"), ("--queue-requests", "1.5")],
)
def test_a_queue_that_holds_nothing_is_refused_by_its_flag(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", "a/b", "--repository", str(tmp_path), flag, value]) == 2
    assert flag in capsys.readouterr().err
