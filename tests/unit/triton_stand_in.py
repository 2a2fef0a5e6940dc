# SPDX-License-Identifier: Apache-2.0
"""Steps without Triton: a stand-in for the module that exists only inside its Python backend, and requests for it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import flagtriton_server
from flagtriton.parameters import write_parameters

__all__ = ["Request", "Response", "Tensor", "TritonError", "answered", "ids", "imported_steps", "started"]


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

    INVALID_ARG = 3


@dataclass
class Request:
    """`pb_utils.InferenceRequest`."""

    tensors: dict[str, NDArray[Any]]
    options: str = ""

    def is_cancelled(self) -> bool:
        return False

    def parameters(self) -> str:
        return self.options


@contextmanager
def imported_steps(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[SimpleNamespace]:
    """Yield the modules of some steps, imported anew, which leave this process's threads and memory as they are."""
    backend = ModuleType("triton_python_backend_utils")
    for name, value in {
        "Tensor": Tensor,
        "TritonError": TritonError,
        "InferenceResponse": Response,
        "Logger": SimpleNamespace(log_info=lambda _: None),
        "get_input_tensor_by_name": _input_tensor,
    }.items():
        setattr(backend, name, value)
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setattr("flagtriton_server.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    _forget("triton_io", *names)
    yield SimpleNamespace(**{name: importlib.import_module(f"flagtriton_server.{name}") for name in names})
    _forget("triton_io", *names)


def started(module: ModuleType, settings: Any) -> Any:
    """Return a step's `TritonPythonModel`, told its settings and that it runs on the processor."""
    parameters = {name: {"string_value": value} for name, value in write_parameters(settings).items()}
    model = module.TritonPythonModel()
    config = json.dumps({"parameters": parameters})
    model.initialize({"model_config": config, "model_instance_kind": "CPU", "model_instance_device_id": "0"})
    return model


def answered(model: Any, *requests: Request) -> list[dict[str, NDArray[Any]]]:
    """Return the tensors that a step answers each request with, none of them refused."""
    responses = model.execute(list(requests))
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
        sys.modules.pop(f"flagtriton_server.{name}", None)
        vars(flagtriton_server).pop(name, None)
