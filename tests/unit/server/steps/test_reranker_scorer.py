# SPDX-License-Identifier: Apache-2.0
"""The scorer step of rerankers with a stand-in for Triton's own module: vectors to logits, or to their sigmoids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton_server.heads.transfer import to_bytes
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_reranker
from tests.support.steps.fake_backend import Request, answered, imported_steps, started

ENCODER, LLM = "encoder-only-base", "decoder-only-base"
LAYERWISE, LIGHTWEIGHT = "decoder-only-layerwise", "decoder-only-lightweight"
LAYERWISE_CLASSES = [LAYERWISE, LIGHTWEIGHT]
WIDTH = 48
MAKERS: dict[str, Callable[[Path], Path]] = {
    ENCODER: lambda folder: make_reranker(folder, make_bert),
    LLM: lambda folder: make_decoder(folder, "llama", head=True),
    LAYERWISE: make_layerwise,
    LIGHTWEIGHT: make_lightweight,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {model_class: make(folder / model_class) for model_class, make in MAKERS.items()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "reranker_scorer") as modules:
        yield modules


Start = Callable[..., Any]


@pytest.fixture
def start(steps: SimpleNamespace, checkpoints: dict[str, Path]) -> Start:
    """Return what starts the step of a class."""

    def start(model_class: str, precision: str = "fp32") -> Any:
        settings = RerankerHeadSettings(str(checkpoints[model_class]), precision=precision, model_class=model_class)
        return started(steps.reranker_scorer, settings)

    return start


def vectors(pairs: int, layers: int = 1, seed: int = 0) -> Tensor:
    """Return `[P, K, D]`, small enough that no sigmoid is 0 or 1."""
    return 0.3 * torch.randn(pairs, layers, WIDTH, generator=torch.Generator().manual_seed(seed))


def states(of: Tensor, options: str = "") -> Request:
    return Request({"hidden_states": to_bytes(of)}, options)


def rows(checkpoint: Path, *heads: int) -> Tensor:
    """Return `[K, D]`, some heads of a layerwise reranker."""
    weights = load_file(checkpoint / "model.safetensors")
    return torch.cat([weights[f"lm_head.{head}.linear_head.weight"] for head in heads])


def assert_scores(answer: dict[str, Any], expected: Tensor, bound: float = 1e-5) -> None:
    assert list(answer) == ["score"]
    assert answer["score"].dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(answer["score"]), expected, rtol=0, atol=bound)


def test_an_llms_score_is_the_logit_of_yes(start: Start, checkpoints: dict[str, Path]) -> None:
    yes = AutoTokenizer.from_pretrained(checkpoints[LLM])("Yes", add_special_tokens=False).input_ids[0]
    row = load_file(checkpoints[LLM] / "model.safetensors")["lm_head.weight"][yes]
    (answer,) = answered(start(LLM), states(vectors(3)))
    assert_scores(answer, vectors(3) @ row)


def test_a_layerwise_layer_is_scored_by_its_own_head(start: Start, checkpoints: dict[str, Path]) -> None:
    (answer,) = answered(start(LAYERWISE), states(vectors(3, 2), '{"cutoff_layers": "6,3"}'))
    assert_scores(answer, (vectors(3, 2) * rows(checkpoints[LAYERWISE], 1, 4)).sum(dim=-1))


def test_lightweight_layers_are_scored_by_the_first_heads_and_capped(
    start: Start, checkpoints: dict[str, Path]
) -> None:
    (answer,) = answered(start(LIGHTWEIGHT), states(100 * vectors(3, 2), '{"cutoff_layers": "6,3"}'))
    logits = (100 * vectors(3, 2) * rows(checkpoints[LIGHTWEIGHT], 0, 1)).sum(dim=-1)
    assert logits.abs().max() > 30
    assert_scores(answer, 30 * torch.tanh(logits / 30), bound=1e-3)


@pytest.mark.parametrize("model_class", MAKERS)
def test_a_normalised_score_is_the_sigmoid(start: Start, model_class: str) -> None:
    plain, normalised = answered(start(model_class), states(vectors(4)), states(vectors(4), '{"normalize": true}'))
    assert plain["score"].shape == (4, 1)
    assert_scores(normalised, torch.from_numpy(plain["score"]).sigmoid())


@pytest.mark.parametrize("model_class", LAYERWISE_CLASSES)
def test_requests_with_different_options_get_what_each_gets_alone(start: Start, model_class: str) -> None:
    step = start(model_class)
    requests = [
        states(vectors(2, 1, 1)),
        states(vectors(3, 3, 2), '{"cutoff_layers": "2,4,6", "normalize": true}'),
        states(vectors(1, 1, 3), '{"cutoff_layers": 5}'),
        states(vectors(2, 2, 4), '{"cutoff_layers": "5,2,5"}'),
        states(vectors(2, 1, 1), '{"prompt": "?", "max_length": 9, "query_instruction": "", "truncate": "NONE"}'),
    ]
    together = answered(step, *requests)
    for request, found in zip(requests, together, strict=True):
        assert_scores(found, torch.from_numpy(answered(step, request)[0]["score"]), bound=0)
    assert [found["score"].shape for found in together] == [(2, 1), (3, 3), (1, 1), (2, 2), (2, 1)]
    assert_scores(together[4], torch.from_numpy(together[0]["score"]), bound=0)


@pytest.mark.parametrize(
    ("precision", "sent"), [("bf16", torch.bfloat16), ("fp16", torch.float32)], ids=["bf16", "fp16"]
)
def test_vectors_are_read_in_the_precision_the_encoder_computes_in(
    start: Start, checkpoints: dict[str, Path], precision: str, sent: torch.dtype
) -> None:
    of = vectors(3, 2).to(sent)
    (answer,) = answered(start(LAYERWISE, precision), states(of, '{"cutoff_layers": "2,3"}'))
    rounded = rows(checkpoints[LAYERWISE], 0, 1).to({"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
    assert_scores(answer, (of.float() * rounded.float()).sum(dim=-1))


BAD: dict[str, tuple[Request, str]] = {
    "missing": (Request({}), "input 'hidden_states' is missing"),
    "more layers": (states(vectors(2, 3), '{"cutoff_layers": "2,4"}'), "is of 3 layers, but the options ask for 2"),
    "fewer layers": (states(vectors(2, 1), '{"cutoff_layers": "2,4"}'), "is of 1 layers, but the options ask for 2"),
    "layer below": (states(vectors(2), '{"cutoff_layers": 1}'), "has 1, .* its heads are at layers 2 to 6"),
    "layer above": (states(vectors(2), '{"cutoff_layers": "7"}'), "has 7, .* its heads are at layers 2 to 6"),
    "half a number": (Request({"hidden_states": np.zeros((1, 1, 6), np.uint8)}), r"hidden_states is \[1, 1, 6\] bytes"),
    "unknown option": (states(vectors(2), '{"domain": "law"}'), "unknown option 'domain'"),
    "ill-formed option": (states(vectors(2), '{"normalize": 1}'), "'normalize' is 1; expected true or false"),
}


@pytest.mark.parametrize(("bad", "said"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("model_class", LAYERWISE_CLASSES)
def test_a_bad_request_fails_alone(start: Start, model_class: str, bad: Request, said: str) -> None:
    step, good = start(model_class), [states(vectors(2)), states(vectors(1, 2), '{"cutoff_layers": "2,4"}')]
    before, refused, behind = step.execute([good[0], bad, good[1]])
    with pytest.raises(Exception, match=said):
        raise refused.error
    for found, expected in zip((before, behind), answered(step, *good), strict=True):
        assert found.error is None
        assert_scores(found.tensors, torch.from_numpy(expected["score"]), bound=0)


@pytest.mark.parametrize("model_class", [ENCODER, LLM])
def test_layers_are_an_unknown_option_where_only_the_last_is_scored(start: Start, model_class: str) -> None:
    refused, answer = start(model_class).execute([states(vectors(1), '{"cutoff_layers": 2}'), states(vectors(1))])
    assert "unknown option 'cutoff_layers'" in str(refused.error)
    assert answer.error is None


def test_a_checkpoint_of_another_class_does_not_start(steps: SimpleNamespace, checkpoints: dict[str, Path]) -> None:
    settings = RerankerHeadSettings(str(checkpoints[LAYERWISE]), precision="fp32", model_class=LIGHTWEIGHT)
    with pytest.raises(ValueError, match=r"config\.json has layer_wise False"):
        started(steps.reranker_scorer, settings)
