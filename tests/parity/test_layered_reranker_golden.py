# SPDX-License-Identifier: Apache-2.0
"""Layerwise and lightweight rerankers through the server, against golden values of FlagEmbedding 1.4.2, fp32.

FlagEmbedding runs these two on older transformers only; `tests/golden/make.sh` made the values, and says how.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from flagtriton import InvalidRequestError, LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker
from tests.conftest import Served
from tests.support.paths import GOLDEN

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore")]

BOUND, NORMALISED_BOUND = 1e-4, 1e-5
CLASSES = {"layerwise": LayerWiseFlagLLMReranker, "lightweight": LightWeightFlagLLMReranker}
VALUES = {name: json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in CLASSES}


def refused_here(arguments: dict[str, Any]) -> bool:
    """Say which cases FlagEmbedding answers by dropping layers, or by not cutting what is too long."""
    layers = arguments.get("cutoff_layers") or [2]
    return not all(2 <= layer <= 6 for layer in np.atleast_1d(layers)) or arguments.get("query_max_length", 0) >= 200


CASES = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name, values in VALUES.items()
    for number, case in enumerate(values["cases"])
]


def reranker(name: str, served: Served, **arguments: Any) -> Any:
    return CLASSES[name](f"reranker-{name}", url=served.grpc_url, **arguments)


def distance(scores: Any, expected: Any) -> float:
    assert np.shape(scores) == np.shape(expected)
    return float(np.abs(np.array(scores) - np.array(expected)).max())


@pytest.mark.parametrize("name", CLASSES)
def test_the_checkpoint_is_the_one_the_values_were_made_with(name: str, served: Served) -> None:
    weights = (served.checkpoints[f"reranker-{name}"] / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == VALUES[name]["weights_sha256"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_scores_are_the_references(name: str, case: dict[str, Any], served: Served) -> None:
    pairs = [tuple(pair) for pair in VALUES[name]["pairs"]]
    with reranker(name, served, **case["constructor"]) as ours:
        if refused_here(case["arguments"]):
            with pytest.raises(
                InvalidRequestError, match=r"cutoff_layers' has .* layers 2 to 6|leave its passage none"
            ):
                ours.compute_score(pairs, **case["arguments"])
            return
        scores = ours.compute_score(pairs, **case["arguments"])
    normalised = {**case["constructor"], **case["arguments"]}.get("normalize")
    assert distance(scores, case["scores"]) <= (NORMALISED_BOUND if normalised else BOUND)
