# SPDX-License-Identifier: Apache-2.0
"""What ends tritonserver 2.51 with signal 11; sent with `--deadly` alone, to see whether a newer one stands."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.attack import INFER, STREAM_INFER, Attack, Manner, Wire
from tests.fuzz.infer import Infer, http_message, to_grpc, to_http
from tests.fuzz.models import Model

__all__ = ["DEADLY_KINDS"]


def _cancelled(request: Infer, model: Model, rng: Random) -> Attack:
    payload = to_grpc(request)
    return Attack("", model.name, Wire.GRPC, payload, INFER, Manner.LEAVES, must_fail=False)


def _cancelled_stream(request: Infer, model: Model, rng: Random) -> Attack:
    payload = to_grpc(request)
    return Attack("", model.name, Wire.STREAM, payload, STREAM_INFER, Manner.LEAVES, must_fail=False)


def _left(request: Infer, model: Model, rng: Random) -> Attack:
    payload = http_message("POST", *to_http(request))
    return Attack("", model.name, Wire.HTTP, payload, manner=Manner.LEAVES, must_fail=False)


def _deep_json(request: Infer, model: Model, rng: Random) -> Attack:
    depth = 100_000
    body = f'{{"{request.tensors[0].name}": {"[" * depth}{"]" * depth}}}'.encode()
    return Attack("", model.name, Wire.HTTP, http_message("POST", f"/v2/models/{model.name}/generate", {}, body))


def _small_chunks(request: Infer, model: Model, rng: Random) -> Attack:
    headers = {"Transfer-Encoding": "chunked", "Content-Length": ""}
    body = b"1\r\n \r\n" * 600_000 + b"0\r\n\r\n"
    return Attack("", model.name, Wire.HTTP, http_message("POST", f"/v2/models/{model.name}/generate", headers, body))


DEADLY_KINDS: dict[str, Callable[[Infer, Model, Random], Attack]] = {
    "deadly: cancelled": _cancelled,
    "deadly: cancelled stream": _cancelled_stream,
    "deadly: left before the answer": _left,
    "deadly: deep JSON": _deep_json,
    "deadly: 600,000 chunks": _small_chunks,
}
"""The first three end it where an ensemble's steps run side by side, as BGE-M3's do, or where a stream is cancelled."""
