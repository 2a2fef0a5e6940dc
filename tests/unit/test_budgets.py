# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.budgets`: tokens of a forward pass, and what may wait for one, in the steps that are told it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.parameters import read_parameters
from flagtriton_server.settings import EncoderSettings, LayeredSettings
from flagtriton_tools.budgets import TOKEN_BUDGETS, encoder_queue, token_budget, tokenizer_queue
from flagtriton_tools.deployments import AddOptions, build
from flagtriton_tools.main import main
from flagtriton_tools.pbtxt import Device, QueuePolicy, read_config
from tests.unit.builders import facts, write_checkpoint

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
    "a layered reranker": {"task": "rerank", "model_class": "decoder-only-layerwise", "pooling_method": None},
}
each_model = pytest.mark.parametrize("known", MODELS.values(), ids=MODELS)


def limits(encoder: ModelConfig) -> tuple[int | None, int | None, float | None]:
    """Return what the encoder step is told: requests, tokens and seconds."""
    told = {name: value.string_value for name, value in encoder.parameters.items()}
    cls = LayeredSettings if "model_class" in told else EncoderSettings
    settings = read_parameters(cls, told)
    return settings.queue_requests, settings.queue_tokens, settings.queue_timeout_s


def policy(tokenizer: ModelConfig) -> tuple[int, int]:
    """Return what Triton's queue before the tokenizer step holds: requests, and microseconds."""
    found = tokenizer.dynamic_batching.default_queue_policy
    return found.max_queue_size, found.default_timeout_microseconds


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
    [(CPU, None, 128, 131_072), (GPU, None, 2048, 2_097_152), (CPU, 99, 64, 3_168), (GPU, 10_000, 312, 320_000)],
)
def test_what_may_wait_for_an_encoder_follows_from_its_token_budget(
    device: Device, budget: int | None, requests: int, tokens: int
) -> None:
    expected = {"queue_requests": requests, "queue_tokens": tokens, "queue_timeout_s": 60.0}
    assert encoder_queue(device, AddOptions(token_budget=budget)) == expected


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
    assert tuple(encoder_queue(CPU, AddOptions(**said)).values()) == expected
    requests, _, timeout_s = expected
    assert tokenizer_queue(AddOptions(**said)) == QueuePolicy(requests, int(timeout_s * 1e6))


def test_as_many_requests_may_wait_for_the_tokenizer_as_for_the_encoder_behind_it() -> None:
    minute = 60_000_000
    assert tokenizer_queue(AddOptions()) == QueuePolicy(128, minute)
    assert tokenizer_queue(AddOptions(device="gpu:0,1")) == QueuePolicy(2048, minute)
    assert tokenizer_queue(AddOptions(token_budget=99)) == QueuePolicy(64, minute)


def test_a_part_of_a_second_is_not_lost() -> None:
    assert tokenizer_queue(AddOptions(queue_timeout=0.001)).timeout_us == 1_000


@each_model
def test_both_steps_are_told_what_follows_from_the_token_budget(known: dict[str, Any]) -> None:
    for chosen, requests, tokens in (
        ({}, 128, 131_072),
        ({"device": "gpu:0"}, 2048, 2_097_152),
        ({"token_budget": 99}, 64, 3_168),
    ):
        tokenizer, encoder = configs(known, **chosen)
        assert policy(tokenizer) == (requests, 60_000_000)
        assert limits(encoder) == (requests, tokens, 60.0)


@each_model
def test_both_steps_are_told_what_the_user_says(known: dict[str, Any]) -> None:
    tokenizer, encoder = configs(known, **SAID)
    assert policy(tokenizer) == (7, 2_500_000)
    assert limits(encoder) == (7, 1000, 2.5)


@each_model
def test_tritons_queue_before_the_tokenizer_has_two_priorities_and_no_other_step_has_any(known: dict[str, Any]) -> None:
    built = {model.name: model.config.dynamic_batching for model in build(facts(**known), AddOptions())}
    levels = {name: (queue.priority_levels, queue.default_priority_level) for name, queue in built.items()}
    assert levels.pop("tiny_tokenizer") == (2, 1)
    assert set(levels.values()) == {(0, 0)}


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
    assert (policy(tokenizer), limits(encoder)) == ((7, 2_500_000), (7, 1000, 2.5))


def test_without_flags_the_files_say_what_follows_from_the_token_budget(added: Any) -> None:
    tokenizer, encoder = added()
    assert (policy(tokenizer), limits(encoder)) == ((128, 60_000_000), (128, 131_072, 60.0))
    tokenizer, encoder = added("--token-budget", "3200")
    assert (policy(tokenizer), limits(encoder)) == ((100, 60_000_000), (100, 102_400, 60.0))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--queue-requests", "0"), ("--queue-tokens", "0"), ("--queue-timeout", "0"), ("--queue-requests", "1.5")],
)
def test_a_queue_that_holds_nothing_is_refused_by_its_flag(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", "a/b", "--repository", str(tmp_path), flag, value]) == 2
    assert flag in capsys.readouterr().err
