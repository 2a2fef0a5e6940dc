# SPDX-License-Identifier: Apache-2.0
"""Encoder steps on tiny models: an interactive request overtakes a bulk one between two layers, and harms neither."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_m3
from tests.support.steps.fake_backend import Request, Response, Sender, answered, ids, imported_steps, started

BOUND = 1e-5
PREFIX = list(range(10, 34))
"""Tokens that texts begin with, enough of them to be computed once where a model can."""

BULK = [[*PREFIX, *range(40, 40 + more)] for more in (3, 9, 4, 7, 5, 8)]
QUERY = [[*PREFIX, 90, 91], [*PREFIX, 92]]

MAKERS: dict[str, Callable[[Path], Path]] = {
    "bert": make_bert,
    "m3": make_m3,
    "llama": lambda folder: make_decoder(folder, "llama"),
    "gemma2": lambda folder: make_decoder(folder, "gemma2"),
    "layerwise": make_layerwise,
    "lightweight": lambda folder: make_lightweight(folder, sliding_window=64),
}
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert, pooled": ("bert", {"pooling_method": "mean"}),
    "bert, all hidden states": ("bert", {}),
    "m3, first states": ("m3", {"rows": "first"}),
    "llama, pooled": ("llama", {"pooling_method": "last_token"}),
    "gemma2, last states": ("gemma2", {"rows": "last"}),
    "layerwise": ("layerwise", {}),
    "lightweight": ("lightweight", {}),
}
SHARING = ["llama, pooled", "layerwise", "lightweight"]
"""Those in which a prefix is computed once."""

each_step = pytest.mark.parametrize("name", STEPS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: make(folder / name) for name, make in MAKERS.items()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "backend.requests", "encoder", "layerwise_encoder") as modules:
        yield modules


def settings_of(checkpoints: dict[str, Path], name: str, **more: Any) -> EncoderSettings | LayerwiseSettings:
    checkpoint, options = STEPS[name]
    given = {"token_budget": 96, "precision": "fp32", **options, **more}
    if checkpoint in ("layerwise", "lightweight"):
        return LayerwiseSettings(str(checkpoints[checkpoint]), f"decoder-only-{checkpoint}", 64, **given)
    return EncoderSettings(str(checkpoints[checkpoint]), 64, **given)


def begun(steps: SimpleNamespace, settings: EncoderSettings | LayerwiseSettings) -> Any:
    return started(steps.layerwise_encoder if isinstance(settings, LayerwiseSettings) else steps.encoder, settings)


def layers_of(step: Any) -> list[nn.Module]:
    module = (step._encoder if hasattr(step, "_encoder") else step._decoder).module
    return list(module.encoder.layer if hasattr(module, "encoder") else module.layers)


def request(texts: list[list[int]], sender: Sender | None = None, **options: Any) -> Request:
    """Return one that every step takes; of a layerwise reranker's, the passage is all but the prefix."""
    ends = {"passage_start": [len(PREFIX)] * len(texts), "passage_end": [len(text) for text in texts]}
    tensors = {name: np.array(of, dtype=np.int32)[:, None] for name, of in ends.items()}
    return Request({"input_ids": ids(*texts), **tensors}, json.dumps(options), sender or Sender())


class Noting(Sender):
    """Adds its request's name to a list when the answer is sent."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self.name, self.order = name, order

    def send(self, response: Response, flags: int) -> None:
        self.order.append(self.name)
        super().send(response, flags)


@contextmanager
def before_layers(step: Any, call: Callable[[int, int], object]) -> Iterator[None]:
    """Call a function before each layer, behind the step's own pause, with the layer and the tokens that enter it."""
    with ExitStack() as hooks:
        for place, layer in enumerate(layers_of(step)):

            def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], place: int = place) -> None:
                call(place, (given[0] if given else named["hidden_states"]).shape[-2])

            hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        yield


def values(tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return what a step answers with, in float32."""
    (of,) = tensors.values()
    return of if of.dtype == np.float32 else of.view(np.float32)


def overtaking(step: Any, bulk: Request, queries: dict[int, Request]) -> list[tuple[int, int]]:
    """Send a bulk request, and each query just before a layer of it; return the layers that ran, and their tokens."""
    ran: list[tuple[int, int]] = []
    still = dict(queries)

    def note(layer: int, tokens: int) -> None:
        ran.append((layer, tokens))
        if layer in still:
            assert step.execute([still.pop(layer)]) == [None]

    with before_layers(step, note):
        assert step.execute([bulk]) == [None]
        for each in (bulk, *queries.values()):
            assert each.sender.response().error is None
    return ran


@each_step
def test_a_query_overtakes_bulk_work_and_both_get_what_each_gets_alone(
    steps: SimpleNamespace, checkpoints: dict[str, Path], name: str
) -> None:
    step = begun(steps, settings_of(checkpoints, name))
    alone = {texts: answered(step, request(of))[0] for texts, of in (("bulk", BULK), ("query", QUERY))}
    order: list[str] = []
    bulk = request(BULK, Noting("bulk", order), bulk=True)
    query = request(QUERY, Noting("query", order))
    overtaking(step, bulk, {1: query})
    assert order == ["query", "bulk"]
    for each, of in ((bulk, "bulk"), (query, "query")):
        found, expected = values(each.sender.response().tensors), values(alone[of])
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND)


@each_step
def test_a_query_runs_whole_between_two_layers(steps: SimpleNamespace, checkpoints: dict[str, Path], name: str) -> None:
    step = begun(steps, settings_of(checkpoints, name, token_budget=512))
    last = len(layers_of(step)) - 1
    ran = overtaking(step, request(BULK, bulk=True), {1: request(QUERY)})
    (of_bulk,) = {tokens for layer, tokens in ran[:2]}
    (of_query,) = {tokens for layer, tokens in ran[2 : last + 3]}
    assert of_query < of_bulk
    expected = [(0, of_bulk), (1, of_bulk), *((layer, of_query) for layer in range(last + 1))]
    assert ran == [*expected, *((layer, of_bulk) for layer in range(2, last + 1))]
    if name in SHARING:
        assert of_bulk < sum(map(len, BULK))


@pytest.mark.parametrize("name", ["bert, pooled", "llama, pooled", "lightweight"])
def test_queries_that_come_one_after_another_overtake_each_at_its_layer(
    steps: SimpleNamespace, checkpoints: dict[str, Path], name: str
) -> None:
    step = begun(steps, settings_of(checkpoints, name))  # bulk work takes several passes
    (alone,) = answered(step, request(BULK))
    order: list[str] = []
    bulk = request(BULK, Noting("bulk", order), bulk=True)
    queries = {layer: request(QUERY[:1], Noting(f"query {layer}", order)) for layer in (0, 1)}
    overtaking(step, bulk, queries)
    assert order == ["query 0", "query 1", "bulk"]
    np.testing.assert_allclose(values(bulk.sender.response().tensors), values(alone), rtol=0, atol=BOUND)


def test_options_of_a_query_are_its_own_in_the_midst_of_other_work(
    steps: SimpleNamespace, checkpoints: dict[str, Path]
) -> None:
    step = begun(steps, settings_of(checkpoints, "lightweight"))
    options = {"cutoff_layers": "2,4", "compress_ratio": 2, "compress_layers": "1"}
    (alone,) = answered(step, request(QUERY, **options))
    bulk, query = request(BULK, bulk=True, cutoff_layers="3,6"), request(QUERY, **options)
    overtaking(step, bulk, {2: query})
    np.testing.assert_allclose(values(query.sender.response().tensors), values(alone), rtol=0, atol=BOUND)
    assert values(bulk.sender.response().tensors).shape[1] == 2


# Where none may overtake.


def bert_padded(checkpoints: dict[str, Path]) -> EncoderSettings:
    return EncoderSettings(str(checkpoints["bert"]), 64, 96, "fp32", "first", trust_remote_code=True)


def of_domains(checkpoints: dict[str, Path]) -> EncoderSettings:
    return EncoderSettings(str(checkpoints["llama"]), 64, 96, "fp32", "last", pseudo_moe=True)


@pytest.mark.parametrize(("made", "packed"), [(bert_padded, False), (of_domains, True)])
def test_no_query_overtakes_in_a_padded_model_or_one_of_domains(
    steps: SimpleNamespace, checkpoints: dict[str, Path], made: Any, packed: bool
) -> None:
    step = begun(steps, made(checkpoints))
    assert step._encoder.packed is packed
    order: list[str] = []
    bulk, query = request(BULK, Noting("bulk", order), bulk=True), request(QUERY, Noting("query", order))
    overtaking(step, bulk, {1: query})
    assert order == ["bulk", "query"]


def hooks(step: Any) -> list[int]:
    return [len(layer._forward_pre_hooks) for layer in layers_of(step)]


@pytest.mark.parametrize(("name", "load"), [("bert, pooled", "load_encoder"), ("lightweight", "load_decoder")])
def test_on_a_gpu_no_query_overtakes_as_its_kernels_are_queued_long_before_they_run(
    steps: SimpleNamespace, checkpoints: dict[str, Path], name: str, load: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, gpu = settings_of(checkpoints, name), torch.device("cuda")
    assert set(hooks(begun(steps, settings))) == {1}
    module = steps.encoder if load == "load_encoder" else steps.layerwise_encoder
    on_the_processor = getattr(module, load)
    monkeypatch.setattr(module, "instance_devices", lambda *_: [gpu])
    monkeypatch.setattr(
        module, load, lambda settings, *_: replace(on_the_processor(settings, torch.device("cpu")), device=gpu)
    )
    assert set(hooks(begun(steps, settings))) == {0}


# What the step is told.


class Told:
    """Stands in for `QueuedEncoder`: keeps its arguments."""

    def __init__(self, args: Any, settings: Any, read: Callable[[Request], Any], _: object) -> None:
        self.args, self.settings, self.read = args, settings, read
        self.watch = SimpleNamespace(on_forward_pass=lambda tokens, places: None)

    def start(self, load: Callable[[], None]) -> None:
        load()

    def enable_layer_preemption(self, module: nn.Module) -> None:
        pass


@pytest.mark.parametrize("name", ["bert, pooled", "lightweight"])
def test_a_step_counts_a_requests_tokens_without_padding(
    steps: SimpleNamespace, checkpoints: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (steps.encoder, steps.layerwise_encoder):
        monkeypatch.setattr(module, "QueuedEncoder", Told)
    settings = settings_of(checkpoints, name)
    told = begun(steps, settings)._queued
    assert (told.settings, told.args["model_name"]) == (settings, "tiny_step")
    assert told.read(steps.requests.StepRequest.of(request(BULK))).tokens == sum(map(len, BULK)) < ids(*BULK).size


@pytest.mark.parametrize("name", ["bert, pooled", "lightweight"])
def test_a_step_that_ends_has_answered_all_that_waited(
    steps: SimpleNamespace, checkpoints: dict[str, Path], name: str
) -> None:
    order: list[str] = []
    step = begun(steps, settings_of(checkpoints, name))
    assert step.execute([request(BULK, Noting(f"{place}", order), bulk=place % 2 == 0) for place in range(6)])
    assert step.is_ready() is True
    step.finalize()
    assert step.is_ready() is False
    assert sorted(order) == [f"{place}" for place in range(6)]
