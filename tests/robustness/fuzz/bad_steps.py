# SPDX-License-Identifier: Apache-2.0
"""Requests straight to private steps: token ids, rows and hidden states that no step before them would have made."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.robustness.fuzz.infer import Infer, Tensor, bytes_tensor, numbers_tensor
from tests.robustness.fuzz.models import Model, Port

__all__ = ["STEP_KINDS", "fitting_infer"]

_PAST_END = -1
_WIDTHS = (192, 192, 192, 0, 1, 2, 3, 4, 96, 191, 384, 1536, 4_096)
_IDS = (-(2**31), -7, -2, 400, 999_999, 2**31 - 1)
_TEXTS = (b"", b"fox", b"the quick brown fox " * 30, b"\x00", b"\xff", "人工智能".encode())


def fitting_infer(step: Model, rng: Random) -> Infer:
    """Return a request whose tensors have the shapes and ranges that the step takes, with odd numbers among them."""
    rows, tokens = rng.randint(1, 4), rng.randint(1, 12)
    ids = _ids(rows, tokens, rng)
    chosen = [port for port in step.inputs if not port.optional]
    if not chosen:
        chosen = rng.choice([[step.inputs[0]], list(step.inputs[1:3]), list(step.inputs[3:])]) or [step.inputs[0]]
    tensors = tuple(_tensor(port, ids, rng) for port in chosen)
    return Infer(step.name, tensors, tuple(port.name for port in step.outputs if not step.inputs[0].optional))


def _ids(rows: int, tokens: int, rng: Random) -> NDArray[np.int32]:
    ids = np.array([[rng.randrange(5, 60) for _ in range(tokens)] for _ in range(rows)], dtype=np.int32)
    for row in ids:
        row[rng.randint(1, tokens) :] = _PAST_END
    return ids


def _tensor(port: Port, ids: NDArray[np.int32], rng: Random) -> Tensor:
    rows, tokens = ids.shape
    if port.datatype == "BYTES":
        return bytes_tensor(port.name, [b"fox"] * rows)
    if port.name == "unweighted_ids":
        return numbers_tensor(port.name, "INT32", np.full((rows, 2), 3, np.int32))
    if port.name.endswith("_rows"):
        return numbers_tensor(port.name, "INT32", np.arange(rows, dtype=np.int32)[:, None])
    if port.name.endswith("ids"):
        return numbers_tensor(port.name, "INT32", ids)
    if port.name.endswith("states"):
        return _states(port.name, rows, tokens, 192, rng)
    return numbers_tensor(port.name, port.datatype, np.full((rows, 1), min(1, tokens)))


def _states(name: str, rows: int, height: int, width: int, rng: Random) -> Tensor:
    """Return bytes of small numbers, of zeros, or of anything: NaN and infinities are among those."""
    size = rows * height * width
    floats = (
        np.random.default_rng(rng.randrange(2**32)).standard_normal(size // 4 + 1, dtype=np.float32).tobytes()[:size]
    )
    data = rng.choice([floats, floats, bytes(size), b"\xff" * size, rng.randbytes(size)])
    return Tensor(name, "UINT8", (rows, height, width), data)


def _replaced(request: Infer, rng: Random, fits: Callable[[Tensor], bool], made: Callable[[Tensor], Tensor]) -> Infer:
    places = [place for place, tensor in enumerate(request.tensors) if fits(tensor)]
    if not places:
        return request
    place = rng.choice(places)
    new = made(request.tensors[place])
    return request.with_tensor(place, shape=new.shape, data=new.data, datatype=new.datatype)


def _numbers(tensor: Tensor) -> NDArray[np.int32]:
    return np.frombuffer(tensor.data, dtype=np.int32).reshape(tensor.shape).copy()


def _ids_out_of_range(request: Infer, rng: Random) -> Infer:
    def made(tensor: Tensor) -> Tensor:
        values = _numbers(tensor)
        values.reshape(-1)[rng.randrange(values.size)] = rng.choice(_IDS)
        return numbers_tensor(tensor.name, "INT32", values)

    return _replaced(request, rng, lambda tensor: tensor.datatype == "INT32", made)


def _gap(request: Infer, rng: Random) -> Infer:
    def made(tensor: Tensor) -> Tensor:
        rows = tensor.shape[0]
        row = rng.choice([[7, _PAST_END, 7], [_PAST_END, 7, 7], [_PAST_END] * 3, [7, _PAST_END, _PAST_END]])
        return numbers_tensor(tensor.name, "INT32", np.array([row] * rows, np.int32))

    return _replaced(request, rng, lambda tensor: tensor.name.endswith("ids"), made)


def _ids_of_odd_width(request: Infer, rng: Random) -> Infer:
    def made(tensor: Tensor) -> Tensor:
        width = rng.choice([0, 1, 2, 600, 9_000])
        return numbers_tensor(tensor.name, "INT32", np.full((tensor.shape[0], width), 7, np.int32))

    return _replaced(request, rng, lambda tensor: tensor.datatype == "INT32", made)


def _states_of_odd_shape(request: Infer, rng: Random) -> Infer:
    def made(tensor: Tensor) -> Tensor:
        height = rng.choice([0, 1, 2, tensor.shape[1], tensor.shape[1] + 1, 40])
        return _states(tensor.name, tensor.shape[0], height, rng.choice(_WIDTHS), rng)

    return _replaced(request, rng, lambda tensor: tensor.datatype == "UINT8", made)


def _other_numbers(request: Infer, rng: Random) -> Infer:
    def made(tensor: Tensor) -> Tensor:
        values = np.array([rng.choice([*_IDS, -1, 0, 1, 2, 5]) for _ in range(tensor.shape[0])], np.int64)
        return numbers_tensor(tensor.name, "INT32", values.astype(np.int32)[:, None])

    return _replaced(request, rng, lambda tensor: tensor.datatype == "INT32" and tensor.shape[1] == 1, made)


def _all_texts(request: Infer, rng: Random) -> Infer:
    tensors = (
        bytes_tensor(tensor.name, rng.choices(_TEXTS, k=tensor.shape[0])) if tensor.datatype == "BYTES" else tensor
        for tensor in request.tensors
    )
    return Infer(request.model, tuple(tensors), request.outputs)


def _odd_options(request: Infer, rng: Random) -> Infer:
    options: dict[str, Any] = rng.choice(
        [
            {"truncate_dim": 10**9},
            {"truncate_dim": 1},
            {"domain": "coding"},
            {"domain": "x"},
            {"weights": "0,0,1"},
            {"cutoff_layers": "0"},
            {"cutoff_layers": "2,2,2"},
            {"compress_ratio": 2**62},
            {"max_length": 2**31},
            {"normalize": False},
            {"query_max_length": 1},
            {"compress_ratio": 3, "compress_layers": "1,2,3"},
        ]
    )
    return Infer(request.model, request.tensors, request.outputs, options)


def _several(request: Infer, rng: Random) -> Infer:
    for change in rng.choices([_ids_out_of_range, _states_of_odd_shape, _other_numbers, _gap, _odd_options], k=3):
        request = change(request, rng)
    return request


STEP_KINDS: dict[str, Callable[[Infer, Random], Infer]] = {
    "step: as it is": lambda request, rng: request,
    "step: ids out of range": _ids_out_of_range,
    "step: NO_TOKEN between ids": _gap,
    "step: ids of odd width": _ids_of_odd_width,
    "step: states of odd shape": _states_of_odd_shape,
    "step: other numbers": _other_numbers,
    "step: odd texts": _all_texts,
    "step: odd options": _odd_options,
    "step: several": _several,
}
"""Some are right for some steps: what counts is that a refusal is one, and that nobody beside them is harmed."""
