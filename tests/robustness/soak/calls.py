# SPDX-License-Identifier: Apache-2.0
"""What a soak calls: every class of the SDK on the tests' deployments, with short texts and long ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flagtriton import (
    BGEM3FlagModel,
    FlagAutoModel,
    FlagICLModel,
    FlagLLMModel,
    FlagLLMReranker,
    FlagPseudoMoEModel,
    FlagReranker,
    LayerWiseFlagLLMReranker,
    LightWeightFlagLLMReranker,
)
from tests.support.checkpoints.tiny import TEXTS

__all__ = ["CALLS", "Call", "differs"]

_FEW = TEXTS[:4]
_MANY = [f"{text} {number % 7}" for number in range(6) for text in TEXTS]
_LONG = ["the quick brown fox jumps over the lazy dog " * 40, "人工智能 " * 60, *TEXTS[:3]]
_PAIRS = [(query, passage) for query in TEXTS[:2] for passage in TEXTS[2:7]]
_ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
_EXAMPLES = [{"instruct": "Find it.", "query": "a fox", "response": "an animal"}]

_BOUND = 2e-5
"""How far a float32 may be from the same text's in another batch."""

_BOUND_OF_HALF_PRECISION = 5e-3
"""Likewise, of vectors that a model has computed in bf16, whatever they travel in."""


@dataclass(frozen=True)
class Call:
    """One call of the SDK, whose answer never changes.

    Attributes:
        model: the deployment; calls of one model and `make` share an object.
        make: the class, or its factory.
        ask: the call itself.
    """

    name: str
    model: str
    make: Callable[..., Any]
    ask: Callable[[Any], Any]

    @property
    def bound(self) -> float:
        """How far a number may be from the right one."""
        return _BOUND_OF_HALF_PRECISION if self.model.endswith("-auto") else _BOUND

    def open(self, url: str) -> Any:
        """Return a new object of the SDK."""
        return self.make(self.model, url=url, use_fp16=False, concurrency=2, show_progress=False)


def differs(came: Any, right: Any, bound: float) -> bool:
    """Return whether an answer is another than the right one, its numbers to within a bound."""
    if isinstance(right, dict):
        return set(came) != set(right) or any(differs(came[key], right[key], bound) for key in right)
    if isinstance(right, (list, tuple)):
        return len(came) != len(right) or any(
            differs(one, other, bound) for one, other in zip(came, right, strict=True)
        )
    if isinstance(right, (np.ndarray, float, np.floating)):
        one, other = np.asarray(came, dtype=np.float64), np.asarray(right, dtype=np.float64)
        if one.shape != other.shape:
            return True
        return not bool((np.abs(one - other) <= bound * np.maximum(1.0, np.abs(other))).all())
    return bool(came != right)


def _encode(texts: list[str], model: Any) -> Any:
    return model.encode(texts)


def _queries(texts: list[str], model: Any) -> Any:
    return model.encode_queries(texts)


def _score(pairs: list[tuple[str, str]], model: Any) -> Any:
    return model.compute_score(pairs)


def _of_embedder(model: str, make: Callable[..., Any]) -> list[Call]:
    return [
        Call(f"{model} few", model, make, partial(_encode, _FEW)),
        Call(f"{model} many", model, make, partial(_encode, _MANY)),
        Call(f"{model} long", model, make, partial(_encode, _LONG)),
        Call(f"{model} queries", model, make, partial(_queries, _FEW)),
    ]


_AUTO = FlagAutoModel.from_finetuned
_BASE = ("bert-cls", "xlmr-mean", "xlmr-mean-in-encoder", "left-last", "all-MiniLM-L6-v2", "minilm-auto")
_M3: dict[str, Callable[..., Any]] = {
    "m3": partial(BGEM3FlagModel, **_ALL),
    "m3-narrow": partial(BGEM3FlagModel, pooling_method="mean", colbert_dim=16, **_ALL),
}
_RERANKERS = {
    "reranker-bert": FlagReranker,
    "reranker-xlmr": FlagReranker,
    "reranker-own-code": FlagReranker,
    "reranker-gemma": FlagLLMReranker,
    "reranker-layerwise": LayerWiseFlagLLMReranker,
    "reranker-lightweight": LightWeightFlagLLMReranker,
}

CALLS: list[Call] = [
    *[call for model in _BASE for call in _of_embedder(model, _AUTO)],
    *_of_embedder("mistral", FlagLLMModel),
    *_of_embedder("icl", partial(FlagICLModel, examples_for_task=_EXAMPLES)),
    *_of_embedder("domains", FlagPseudoMoEModel),
    *[call for model, make in _M3.items() for call in _of_embedder(model, make)],
    *[Call(f"{model} pairs", model, make, partial(_score, _PAIRS)) for model, make in _M3.items()],
    *[Call(f"{model} pairs", model, make, partial(_score, _PAIRS)) for model, make in _RERANKERS.items()],
    *[Call(f"{model} a pair", model, make, partial(_score, _PAIRS[:1])) for model, make in _RERANKERS.items()],
]
