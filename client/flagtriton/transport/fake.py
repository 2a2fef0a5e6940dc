# SPDX-License-Identifier: Apache-2.0
"""A transport without a server, for tests of code that uses the SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from flagtriton.errors import ModelNotServedError
from flagtriton.protocol.options.checks import OptionValue
from flagtriton.transport.base import InferenceReply, ModelConfig

__all__ = ["FakeTransport", "Request"]


@dataclass(frozen=True)
class Request:
    """What one call of `infer` was given."""

    model: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[str]
    parameters: Mapping[str, OptionValue]
    timeout_s: float | None = None


Answer: TypeAlias = Callable[[Request], InferenceReply]


@dataclass
class FakeTransport:
    """A `Transport` that answers with a function and remembers what it was asked.

    Attributes:
        answer: called with every request; may raise any of `flagtriton.errors`.
        configs: the models that are "served".
        requests: every request so far, in the order of arrival.
    """

    answer: Answer
    configs: Mapping[str, ModelConfig]
    requests: list[Request] = field(default_factory=list)
    closed: bool = False
    address: str = "fake://"

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        parameters: Mapping[str, OptionValue],
        timeout_s: float | None = None,
    ) -> InferenceReply:
        """Return what `answer` returns."""
        request = Request(model, inputs, outputs, parameters, timeout_s)
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
        """Note that it was closed."""
        self.closed = True
