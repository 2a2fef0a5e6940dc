# SPDX-License-Identifier: Apache-2.0
"""How many modules of the SDK one request passes through."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import flagtriton
from flagtriton.transport.connect import connect
from tests.support.fake_models import embedder, fake_server

ROOT = Path(flagtriton.__file__).parent
MAX_MODULES = 12


def modules_of(call: Callable[[], Any]) -> set[str]:
    """Return the SDK's modules whose functions `call` executes, without those that it imports."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            files.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return {str(path.relative_to(ROOT)) for path in map(Path, files) if ROOT in path.parents}


def test_a_dense_request_passes_through_few_modules() -> None:
    model = embedder(fake_server())
    assert len(modules_of(lambda: model.encode(["a", "b"]))) <= MAX_MODULES


def test_a_dense_request_over_grpc_passes_through_few_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        def as_numpy(self, _: str) -> Any:
            return np.zeros((1, 4), np.float32)

    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient.infer", lambda *_, **__: Result())
    model = embedder(fake_server())
    transport = connect("grpc://127.0.0.1:1")
    object.__setattr__(model.served, "transport", transport)
    assert len(modules_of(lambda: model.encode(["a"]))) <= MAX_MODULES
    transport.close()
