# SPDX-License-Identifier: Apache-2.0
"""Good requests to every public model, and the answers that they got while the server was at rest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor

from tests.robustness.fuzz.infer import Infer, Tensor, bytes_tensor
from tests.robustness.fuzz.models import Model, World

__all__ = ["Known", "difference", "good_infer", "good_requests"]

TEXTS = ("the quick brown fox", "", "人工智能 🙂", "A lazy dog, naïve.", "fox dog " * 40)
_BOUNDS = {np.dtype(np.float32): 1e-5, np.dtype(np.float16): 1e-3}
"""How far a number may be from the known one: its batch is another; the least step of fp16 below 1 is 0.0005."""

_BOUND_OF_HALF_PRECISION = 5e-3
"""Of vectors that a model has computed in bf16, whatever they travel in."""


@dataclass(frozen=True)
class Known:
    """A good request and its right answer."""

    request: Infer
    answer: Mapping[str, NDArray[Any]]


def good_infer(model: Model, rng: Random) -> Infer:
    """Return a well-formed request to a model that takes texts, of one to four rows."""
    rows = rng.randint(1, 4)
    tensors = [
        bytes_tensor(port.name, [text.encode() for text in rng.choices(TEXTS, k=rows)])
        for port in model.inputs
        if port.datatype == "BYTES"
    ]
    return Infer(model.name, tuple(tensors), tuple(port.name for port in model.outputs))


def good_requests(world: World, grpc: str) -> list[Known]:
    """Return several to each public model, with the answers of now."""
    requests = []
    for model in world.public:
        for number in range(3):
            requests.append(good_infer(model, Random(f"{model.name} {number}")))
    with tritonclient.grpc.InferenceServerClient(grpc) as client:
        return [Known(request, ask_grpc(client, request)) for request in requests]


def ask_grpc(client: tritonclient.grpc.InferenceServerClient, request: Infer) -> dict[str, NDArray[Any]]:
    """Return the answer over gRPC."""
    return _asked(tritonclient.grpc, client, request)


def ask_http(client: tritonclient.http.InferenceServerClient, request: Infer) -> dict[str, NDArray[Any]]:
    """Return the answer over HTTP."""
    return _asked(tritonclient.http, client, request)


def difference(known: Known, answer: Mapping[str, NDArray[Any]]) -> str | None:
    """Return what is wrong with an answer, or None."""
    for name, right in known.answer.items():
        came = answer.get(name)
        if came is None or came.shape != right.shape or came.dtype != right.dtype:
            return f"{known.request.model} {name} is {came if came is None else came.shape}; expected {right.shape}"
        if right.dtype not in _BOUNDS:
            if not np.array_equal(came, right):
                return f"{known.request.model} {name} is {came.tolist()}; expected {right.tolist()}"
            continue
        off = np.abs(came.astype(np.float64) - right).max(initial=0.0)
        bound = _BOUND_OF_HALF_PRECISION if known.request.model.endswith("-auto") else _BOUNDS[right.dtype]
        if not off <= bound * max(1.0, float(np.abs(right).max(initial=0.0))):
            return f"{known.request.model} {name} is {off:.2g} off"
    return None


def _asked(wire: Any, client: Any, request: Infer) -> dict[str, NDArray[Any]]:
    tensors = []
    for tensor in request.tensors:
        tensors.append(wire.InferInput(tensor.name, list(tensor.shape), tensor.datatype))
        tensors[-1].set_data_from_numpy(_array(tensor))
    outputs = [wire.InferRequestedOutput(name) for name in request.outputs]
    result = client.infer(request.model, tensors, outputs=outputs, parameters=dict(request.options))
    return {name: np.array(result.as_numpy(name)) for name in request.outputs}


def _array(tensor: Tensor) -> NDArray[Any]:
    return deserialize_bytes_tensor(tensor.data).reshape(tensor.shape)


def in_turn(known: list[Known]) -> itertools.cycle[Known]:
    """Return all of them, again and again."""
    return itertools.cycle(known)
