# SPDX-License-Identifier: Apache-2.0
"""What still ends tritonserver 2.51 with signal 11; sent with `--deadly` alone, to see whether a newer one stands."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.robustness.fuzz.attack import STREAM_INFER, Attack, Manner, Wire
from tests.robustness.fuzz.infer import Infer, http_message, to_grpc
from tests.robustness.fuzz.models import Model

__all__ = ["DEADLY_KINDS"]


def _cancelled_stream(request: Infer, model: Model, rng: Random) -> Attack:
    payload = to_grpc(request)
    return Attack("", model.name, Wire.STREAM, payload, STREAM_INFER, Manner.LEAVES, must_fail=False)


def _deep_json(request: Infer, model: Model, rng: Random) -> Attack:
    depth = 100_000
    body = f'{{"{request.tensors[0].name}": {"[" * depth}{"]" * depth}}}'.encode()
    return Attack("", model.name, Wire.HTTP, http_message("POST", f"/v2/models/{model.name}/generate", {}, body))


def _small_chunks(request: Infer, model: Model, rng: Random) -> Attack:
    headers = {"Transfer-Encoding": "chunked", "Content-Length": ""}
    body = b"1\r\n \r\n" * 600_000 + b"0\r\n\r\n"
    return Attack("", model.name, Wire.HTTP, http_message("POST", f"/v2/models/{model.name}/generate", headers, body))


DEADLY_KINDS: dict[str, Callable[[Infer, Model, Random], Attack]] = {
    "deadly: cancelled stream": _cancelled_stream,
    "deadly: deep JSON": _deep_json,
    "deadly: 600,000 chunks": _small_chunks,
}
