# SPDX-License-Identifier: Apache-2.0
"""Steps without Triton: a stand-in for the module that exists only inside its Python backend, and requests for it."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flagtriton.protocol.parameters import write_parameters

__all__ = [
    "MetricFamily",
    "Request",
    "Response",
    "Sender",
    "Tensor",
    "TritonError",
    "answered",
    "ids",
    "imported_steps",
    "responses_of",
    "started",
]


FINAL = 1

_OVER_TRITON = (
    "backend.requests",
    "backend.responses",
    "backend.server_log",
    "backend.metrics",
    "base",
    "queued_encoder",
)
"""What the steps import that holds on to the module which stands in for Triton's."""


class Tensor:
    """`pb_utils.Tensor`."""

    def __init__(self, name: str, values: NDArray[Any]) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> NDArray[Any]:
        return self.values


class Response:
    """`pb_utils.InferenceResponse`: its tensors by name, or an error."""

    def __init__(self, tensors: list[Tensor] | None = None, error: Exception | None = None) -> None:
        self.tensors, self.error = {tensor.name: tensor.values for tensor in tensors or []}, error


class TritonError(Exception):
    """`pb_utils.TritonError`."""

    INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = 3, 6, 9, 2


class Sender:
    """`InferenceResponseSender`; keeps what is sent, once."""

    def __init__(self) -> None:
        self._response: Future[Response] = Future()

    def send(self, response: Response, flags: int) -> None:
        assert flags == FINAL
        self._response.set_result(response)

    def response(self) -> Response:
        return self._response.result(timeout=60)


@dataclass
class Request:
    """`pb_utils.InferenceRequest`."""

    tensors: dict[str, NDArray[Any]]
    options: str = ""
    sender: Sender = field(default_factory=Sender)
    cancelled: bool = False
    timeout_us: int = 0
    name: str = ""

    def is_cancelled(self) -> bool:
        return self.cancelled

    def timeout(self) -> int:
        return self.timeout_us

    def request_id(self) -> str:
        return self.name

    def get_response_sender(self) -> Sender:
        return self.sender

    def parameters(self) -> str:
        return self.options


class MetricFamily:
    """`pb_utils.MetricFamily`; the values of all series are kept by name and labels."""

    COUNTER, GAUGE = "counter", "gauge"
    values: ClassVar[dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str]) -> MetricSeries:  # noqa: N802 - as there
        key = (self.name, frozenset(labels.items()))
        self.values.setdefault(key, 0.0)
        return MetricSeries(self.kind, key, self.values)

    @classmethod
    def value(cls, name: str, **labels: str) -> float:
        """Return a series' value; KeyError if nobody has opened it."""
        return cls.values[name, frozenset(labels.items())]


@dataclass
class MetricSeries:
    """`pb_utils.Metric`."""

    kind: str
    key: tuple[str, frozenset[tuple[str, str]]]
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]  # of the test that opened it: steps may outlive theirs

    def increment(self, amount: float) -> None:
        assert self.kind == "counter"
        assert amount >= 0
        self.values[self.key] += amount

    def set(self, value: float) -> None:
        assert self.kind == "gauge"
        self.values[self.key] = value


@contextmanager
def imported_steps(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[SimpleNamespace]:
    """Yield modules of the server's, imported anew, which leave this process's threads and memory as they are.

    Args:
        monkeypatch: undoes what is replaced.
        names: of steps, or of other modules with their packages: `backend.metrics` is there as `metrics`.
    """
    backend = ModuleType("triton_python_backend_utils")
    for name, value in {
        "Tensor": Tensor,
        "TritonError": TritonError,
        "InferenceResponse": Response,
        "MetricFamily": MetricFamily,
        "Logger": SimpleNamespace(log_info=lambda _: None, log_error=lambda _: None),
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL": FINAL,
        "get_input_tensor_by_name": _input_tensor,
    }.items():
        setattr(backend, name, value)
    monkeypatch.setattr(MetricFamily, "values", {})
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setattr("flagtriton_server.backend.process_tuning.keep_freed_memory", lambda: True)
    monkeypatch.setattr("flagtriton_server.backend.process_tuning.lower_priority", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    _forget(*_OVER_TRITON, *names)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr("flagtriton.protocol.runtime_files.FLAG_FOLDER", Path(folder))
        yield SimpleNamespace(**{name.rpartition(".")[2]: importlib.import_module(_path(name)) for name in names})
    _forget(*_OVER_TRITON, *names)


def started(module: ModuleType, settings: Any) -> Any:
    """Return a step's `TritonPythonModel`, told its settings and that it runs on the processor."""
    parameters = {name: {"string_value": value} for name, value in write_parameters(settings).items()}
    model = module.TritonPythonModel()
    config = json.dumps({"parameters": parameters})
    instance = {
        "model_name": "tiny_step",
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }
    model.initialize({"model_config": config, **instance})
    return model


def responses_of(model: Any, *requests: Request) -> list[Response]:
    """Return a step's response to each request, whether it comes from `execute` or later."""
    at_once = model.execute(list(requests))
    return [response or request.sender.response() for response, request in zip(at_once, requests, strict=True)]


def answered(model: Any, *requests: Request) -> list[dict[str, NDArray[Any]]]:
    """Return the tensors that a step answers each request with, none of them refused."""
    responses = responses_of(model, *requests)
    assert not [response.error for response in responses if response.error]
    return [response.tensors for response in responses]


def ids(*texts: list[int]) -> NDArray[np.int32]:
    """Return `input_ids` `[B, T]`."""
    filled = np.full((len(texts), max(map(len, texts))), -1, dtype=np.int32)  # [B, T]
    for row, text in zip(filled, texts, strict=True):
        row[: len(text)] = text
    return filled


def _input_tensor(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.tensors[name]) if name in request.tensors else None


def _forget(*names: str) -> None:
    for name in names:
        package, _, module = _path(name).rpartition(".")
        sys.modules.pop(_path(name), None)
        vars(importlib.import_module(package)).pop(module, None)


def _path(name: str) -> str:
    """Return a module's name with that of its package: of the steps' package unless it says another."""
    return f"flagtriton_server.{name if '.' in name else f'steps.{name}'}"
