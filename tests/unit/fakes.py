# SPDX-License-Identifier: Apache-2.0
"""A served embedder without a server, whose vectors are small sums over a text's bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flagtriton.parameters import write_parameters
from flagtriton.protocol import DENSE_VECS, TEXT, Deployment
from flagtriton.transport import InferenceReply, ModelConfig
from flagtriton.transport.fake import FakeTransport, Request

__all__ = [
    "DIMENSION",
    "NAME",
    "answer_with_bytes",
    "failing_first",
    "fake_server",
    "model_config",
    "texts_of",
    "vector",
]

NAME = "bge-base-en-v1.5"
DIMENSION = 4


def vector(text: str) -> list[float]:
    """Return `[byte count, first byte, last byte, sum of bytes]`: `vector("ab") == [2, 97, 98, 195]`."""
    data = text.encode()
    return [float(number) for number in (len(data), *(data[:1] or b"\0"), *(data[-1:] or b"\0"), sum(data))]


def texts_of(request: Request) -> list[str]:
    """Return the texts that a request carried."""
    return [data.decode() for data in request.inputs[TEXT.name][:, 0]]


def answer_with_bytes(request: Request) -> InferenceReply:
    """Return the vectors of a request's texts, cut to its `truncate_dim`."""
    vectors = np.array([vector(text) for text in texts_of(request)], dtype=np.float32)
    return {DENSE_VECS.name: vectors[:, : request.parameters.get("truncate_dim")]}


def failing_first(*failures: Exception) -> Callable[[Request], InferenceReply]:
    """Return an answer that raises `failures`, one a request, and then answers with bytes."""
    left = list(failures)

    def answer(request: Request) -> InferenceReply:
        if left:
            raise left.pop(0)
        return answer_with_bytes(request)

    return answer


def model_config(name: str = NAME, *, max_batch_size: int = 64, **changes: Any) -> ModelConfig:
    """Return the configuration of an encoder-only embedder, with `changes` to its `Deployment`."""
    settings: dict[str, Any] = {
        "task": "embed",
        "model_class": "encoder-only-base",
        "checkpoint": f"BAAI/{name}",
        "pooling_method": "cls",
        "max_length": 512,
        "precision": "fp32",
        "device": "cpu",
        "hidden_size": DIMENSION,
    }
    deployment = Deployment(**{**settings, **changes})
    return ModelConfig(name, max_batch_size, write_parameters(deployment))


def fake_server(
    answer: Callable[[Request], InferenceReply] = answer_with_bytes, *, max_batch_size: int = 64, **changes: Any
) -> FakeTransport:
    """Return a transport that serves `NAME` alone."""
    return FakeTransport(answer, {NAME: model_config(max_batch_size=max_batch_size, **changes)})
