# SPDX-License-Identifier: Apache-2.0
"""The encoder step of layerwise rerankers, with a stand-in for Triton's module: all kinds of requests in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flagtriton.protocol.settings import LayerwiseSettings
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.steps.fake_backend import Request, answered, ids, imported_steps, responses_of, started

LAYERWISE, LIGHTWEIGHT = "decoder-only-layerwise", "decoder-only-lightweight"
WIDTH = 48
ROWS = [[1, 40, 41, 7, 50, 51, 52, 53, 54, 7, 60], [1, 40, 7, 90, 91, 92, 7, 60]]
STARTS, ENDS = (4, 3), (9, 6)
"""Where the two rows' passages, of 5 and 3 tokens, begin and end."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {LAYERWISE: make_layerwise(folder / "layerwise"), LIGHTWEIGHT: make_lightweight(folder / "lightweight")}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "layerwise_encoder") as modules:
        yield modules


def encoder(
    steps: SimpleNamespace, checkpoints: dict[str, Path], model_class: str = LIGHTWEIGHT, precision: str = "fp32"
) -> Any:
    settings = LayerwiseSettings(str(checkpoints[model_class]), model_class, 32, token_budget=64, precision=precision)
    return started(steps.layerwise_encoder, settings)


@pytest.fixture
def step(steps: SimpleNamespace, checkpoints: dict[str, Path]) -> Any:
    """Return the lightweight one's, of 6 layers with heads from the second on."""
    return encoder(steps, checkpoints)


def rows(options: str = "", **changes: Any) -> Request:
    """Return a request, some of whose tensors are changed, or left out where None."""
    places = {name: np.array(of, dtype=np.int32)[:, None] for name, of in (("start", STARTS), ("end", ENDS))}
    tensors = {"input_ids": ids(*ROWS), "passage_start": places["start"], "passage_end": places["end"], **changes}
    return Request({name: values for name, values in tensors.items() if values is not None}, options)


def vectors(answer: dict[str, Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return `[P, K, D]`."""
    assert list(answer) == ["hidden_states"]
    return torch.from_numpy(answer["hidden_states"]).view(dtype)


@pytest.mark.parametrize("model_class", [LAYERWISE, LIGHTWEIGHT])
def test_a_row_is_answered_with_a_vector_for_every_layer_asked_for(
    steps: SimpleNamespace, checkpoints: dict[str, Path], model_class: str
) -> None:
    model = encoder(steps, checkpoints, model_class)
    last, several = answered(model, rows(), rows('{"cutoff_layers": "6,2,4,2"}'))
    assert last["hidden_states"].dtype == np.uint8
    assert vectors(last).shape == (2, 1, WIDTH)
    assert vectors(several).shape == (2, 3, WIDTH)
    torch.testing.assert_close(vectors(several)[:, 2:], vectors(last), rtol=1e-5, atol=1e-5)
    assert len({tuple(vector) for vector in vectors(several).flatten(0, 1).tolist()}) == 6


def test_vectors_travel_in_the_precision_they_are_computed_in(
    steps: SimpleNamespace, checkpoints: dict[str, Path], step: Any
) -> None:
    (found,) = answered(encoder(steps, checkpoints, precision="bf16"), rows())
    (exact,) = answered(step, rows())
    assert found["hidden_states"].shape == (2, 1, 2 * WIDTH)
    similarity = torch.cosine_similarity(vectors(found, torch.bfloat16).float(), vectors(exact), dim=-1)
    assert similarity.min() > 0.99


OPTIONS = [
    "",
    '{"cutoff_layers": "2,4"}',
    '{"cutoff_layers": 4}',
    '{"compress_ratio": 2, "compress_layers": "1"}',
    '{"compress_ratio": 4, "compress_layers": "1,3", "cutoff_layers": "2,6"}',
    '{"compress_ratio": 4}',
    '{"normalize": true, "prompt": "?", "max_length": 9, "query_max_length": 3, "truncate": "NONE"}',
]


def test_requests_with_different_options_get_what_each_gets_alone(step: Any) -> None:
    together = answered(step, *[rows(options) for options in OPTIONS])
    alone = [answered(step, rows(options))[0] for options in OPTIONS]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(vectors(found), vectors(expected), rtol=1e-5, atol=1e-5)


def test_options_change_what_they_should(step: Any) -> None:
    plain, _, _, compressed, _, idle, prompted = (vectors(of) for of in answered(step, *map(rows, OPTIONS)))
    assert (compressed - plain).abs().max() > 0.01
    torch.testing.assert_close(idle, plain, rtol=1e-5, atol=1e-5)  # layer 8 of FlagEmbedding's default is not here
    torch.testing.assert_close(prompted, plain, rtol=1e-5, atol=1e-5)  # other steps' affair


def test_only_the_passage_is_compressed(step: Any) -> None:
    # passages of no and of one token have nothing to compress
    options = '{"compress_ratio": 9, "compress_layers": "1"}'
    places = [np.array([[4], [3]], dtype=np.int32), np.array([[4], [4]], dtype=np.int32)]
    short = {"passage_start": places[0], "passage_end": places[1]}
    found, plain = answered(step, rows(options, **short), rows())
    torch.testing.assert_close(vectors(found), vectors(plain), rtol=1e-5, atol=1e-5)


BAD: dict[str, tuple[Request, str]] = {
    "layer below": (rows('{"cutoff_layers": "1,6"}'), "has 1, where this model has no head; .* at layers 2 to 6"),
    "layer above": (rows('{"cutoff_layers": 7}'), "has 7, where this model has no head; .* at layers 2 to 6"),
    "no layers": (rows('{"cutoff_layers": ""}'), "'cutoff_layers' is ''; expected whole numbers"),
    "ratio": (rows('{"compress_ratio": 0}'), "'compress_ratio' is 0; expected a whole number of at least 1"),
    "unknown option": (rows('{"input_type": "query"}'), "unknown option 'input_type'"),
    "no ids": (rows(input_ids=None), "input 'input_ids' is missing"),
    "no start": (rows(passage_start=None), "input 'passage_start' is missing"),
    "no end": (rows(passage_end=None), "input 'passage_end' is missing"),
    "too long": (rows(input_ids=ids([5] * 33, [5] * 33)), "input_ids has 33 tokens a row; this model takes 32"),
    "not in the vocabulary": (rows(input_ids=ids([10**6] * 9, [5] * 9)), r"input_ids runs from 5 to 1000000"),
    "passage outside": (
        rows(passage_end=np.array([[9], [9]], dtype=np.int32)),
        "row 1 has 8 tokens, but its passage is said to be tokens 3 to 9",
    ),
}


@pytest.mark.parametrize(("bad", "said"), BAD.values(), ids=BAD)
def test_a_bad_request_fails_alone(step: Any, bad: Request, said: str) -> None:
    before, refused, behind = responses_of(step, rows(), bad, rows('{"cutoff_layers": "2,4"}'))
    with pytest.raises(Exception, match=said):
        raise refused.error
    expected = answered(step, rows(), rows('{"cutoff_layers": "2,4"}'))
    for found, own in zip((before, behind), expected, strict=True):
        assert found.error is None
        torch.testing.assert_close(vectors(found.tensors), vectors(own), rtol=1e-5, atol=1e-5)


def test_a_batch_of_bad_requests_runs_nothing(step: Any) -> None:
    responses = step.execute([bad for bad, _ in BAD.values()])
    assert all(response.error for response in responses)


def test_compression_is_unknown_to_the_layerwise_class(steps: SimpleNamespace, checkpoints: dict[str, Path]) -> None:
    model = encoder(steps, checkpoints, LAYERWISE)
    refused, answer = responses_of(model, rows('{"compress_ratio": 2}'), rows('{"cutoff_layers": "2"}'))
    assert "unknown option 'compress_ratio'" in str(refused.error)
    assert answer.error is None
