# SPDX-License-Identifier: Apache-2.0
"""`FakeTransport`: a transport without a server, for tests of code that uses the SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from flagtriton.errors import ModelNotServedError
from flagtriton.transport.base import InferenceReply, InferRequest, ModelConfig

__all__ = ["FakeTransport", "Request"]

Request: TypeAlias = InferRequest
"""The argument of `answer`, with the attributes `model`, `inputs`, `outputs`, `parameters` and `timeout_s`."""

Answer: TypeAlias = Callable[[Request], InferenceReply]


@dataclass
class FakeTransport:
    """A `Transport` that answers by calling a function and records every request.

    Attributes:
        answer: function called with every request; may raise any exception of `flagtriton.errors`.
        configs: configurations of the models that are "served", by name.
        requests: every request so far, in order of arrival.
        closed: whether `close` was called.
        address: the URL in error messages.
    """

    answer: Answer
    configs: Mapping[str, ModelConfig]
    requests: list[Request] = field(default_factory=list)
    closed: bool = False
    address: str = "fake://"

    def infer(self, request: InferRequest) -> InferenceReply:
        """Return the result of `answer`."""
        self.requests.append(request)
        return self.answer(request)

    def model_config(self, model: str) -> ModelConfig:
        """Return the model's entry of `configs`."""
        if model not in self.configs:
            raise ModelNotServedError(f"model {model!r} at {self.address}: not found")
        return self.configs[model]

    def ready_models(self) -> list[str]:
        """Return the names in `configs`."""
        return list(self.configs)

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True
