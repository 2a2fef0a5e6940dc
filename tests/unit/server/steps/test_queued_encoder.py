# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.steps.queued_encoder`: what may wait for an encoder, and where bulk work makes way for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import nn

from flagtriton.protocol.runtime_files import flag_path
from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings, QueueLimits
from flagtriton_server.backend.backpressure import BackpressureFlag
from tests.support.steps.fake_backend import Request, imported_steps
from tests.support.steps.jobs import settable_clock

BUDGET = 64


@pytest.fixture
def queued_encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with imported_steps(monkeypatch, "queued_encoder") as modules:
        yield modules.queued_encoder


class Work:
    """One token's worth of it."""

    tokens = rows = 1


def encoder(queued_encoder: Any, run: Callable[[list[Any]], list[Any]] = list, *, count: int = 1, **more: Any) -> Any:
    config = json.dumps({"instance_group": [{"count": count, "gpus": []}]})
    args = {"model_name": "tiny_encoder", "model_version": "1", "model_config": config}
    settings = EncoderSettings("a/b", 64, token_budget=BUDGET, **more)
    return queued_encoder.QueuedEncoder(args, settings, lambda _: Work(), run)


# What may wait.


@pytest.mark.parametrize("made", [EncoderSettings("a/b", 64, 4096), LayerwiseSettings("a/b", "c", 64, 4096)])
def test_what_may_wait_follows_from_the_token_budget_unless_it_is_said(queued_encoder: Any, made: Any) -> None:
    assert queued_encoder.queue_limits(made) == QueueLimits(128, 131_072, 60.0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"queue_requests": 7}, QueueLimits(7, 131_072, 60.0)),
        ({"queue_tokens": 7}, QueueLimits(128, 7, 60.0)),
        ({"queue_timeout_s": 0.5}, QueueLimits(128, 131_072, 0.5)),
        ({"queue_requests": 1, "queue_tokens": 2, "queue_timeout_s": 3.0}, QueueLimits(1, 2, 3.0)),
    ],
)
def test_what_may_wait_is_what_is_said(queued_encoder: Any, said: dict[str, Any], expected: QueueLimits) -> None:
    assert queued_encoder.queue_limits(EncoderSettings("a/b", 64, 4096, **said)) == expected
    assert queued_encoder.queue_limits(LayerwiseSettings("a/b", "c", 64, 4096, **said)) == expected


@pytest.mark.parametrize(("count", "up"), [(1, True), (2, False)])
def test_the_tokenizer_is_told_that_a_single_instance_is_full(queued_encoder: Any, count: int, up: bool) -> None:
    full = encoder(queued_encoder, count=count, queue_requests=2)
    sign = BackpressureFlag(flag_path("tiny_tokenizer", "1"))
    full.execute([Request({})])
    assert not sign.is_set(bulk=False)
    full.execute([Request({})])
    assert (sign.is_set(bulk=False), sign.is_set(bulk=True)) == (up, False)
    full.start()
    full.finalize()
    assert not sign.is_set(bulk=False)


# How long passes are.


class Passes:
    """An encoder without a model: notes how many tokens a pass may take, of work that is bulk or not."""

    def __init__(self, queued_encoder: Any, *, pauses: bool = True) -> None:
        self.seen: list[int] = []
        self.queued = encoder(queued_encoder, self.run)
        if pauses:
            self.queued.enable_layer_preemption(Network())
        self.queued.start()

    def run(self, work: list[Any]) -> list[Any]:
        self.seen.append(self.queued.pass_budget())
        return [{} for _ in work]

    def ask(self, *, bulk: bool) -> int:
        asked = Request({}, json.dumps({"bulk": bulk}))
        self.queued.execute([asked])
        assert asked.sender.response().error is None
        return self.seen[-1]


def test_bulk_passes_are_short_within_a_second_of_an_interactive_request(
    queued_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = settable_clock(monkeypatch)
    passes = Passes(queued_encoder)
    assert passes.ask(bulk=True) == BUDGET
    assert passes.ask(bulk=False) == BUDGET  # nobody passes it
    assert passes.ask(bulk=True) == BUDGET // 8
    clock.now += 1.1
    assert passes.ask(bulk=True) == BUDGET
    passes.queued.finalize()


def test_passes_are_long_where_nobody_can_pass_between_layers(queued_encoder: Any) -> None:
    passes = Passes(queued_encoder, pauses=False)
    passes.ask(bulk=False)
    assert passes.ask(bulk=True) == BUDGET
    passes.queued.finalize()


# Layers.


class Network(nn.Module):
    """Three layers, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Noting("head") for _ in range(2)])
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([Noting(f"layer{place}") for place in range(3)])

    def forward(self, seen: list[str]) -> None:
        for part in (*self.encoder.layers, *self.heads):
            part(seen)


class Noting(nn.Module):
    """A layer, with a part of its own, that adds its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.within = nn.Identity()

    def forward(self, seen: list[str]) -> None:
        self.within(seen).append(self.name)


def test_others_may_pass_before_every_layer_and_nowhere_else(
    queued_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "flagtriton_server.backend.scheduler.Worker.run_interactive_now", lambda _: seen.append("pause")
    )
    queued = encoder(queued_encoder)
    network = Network()
    queued.enable_layer_preemption(network)
    network(seen)
    assert seen == ["pause", "layer0", "pause", "layer1", "pause", "layer2", "head", "head"]


def test_a_network_without_layers_has_no_pauses(queued_encoder: Any) -> None:
    queued = encoder(queued_encoder)
    queued.enable_layer_preemption(nn.Sequential(nn.Linear(1, 1)))
