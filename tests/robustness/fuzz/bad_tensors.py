# SPDX-License-Identifier: Apache-2.0
"""Requests whose tensors are not what they claim, or not what the model takes. All but one are certainly wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tests.robustness.fuzz.infer import Infer, bytes_tensor
from tests.robustness.fuzz.models import Model

__all__ = ["TENSOR_KINDS", "UNCERTAIN"]

_DATATYPES = ("INT32", "FP32", "UINT8", "BOOL", "FP16", "BF16", "INT64", "STRING", "bytes", "", "BYTES ", "X" * 300)
_HUGE = (2**31, 2**31 + 7, 2**63 - 1)
_BEYOND_32_BITS = (-(2**63), 2**32, 2**32 + 1, 2**40, 2**62)
_NAMES = ("texts", "TEXT", "", " text", "texts\x00", "x" * 5_000, "人工智能", "input_ids\n", "../text", "INPUT__0")
_NO_UTF8 = (b"\xff", b"\xc3(", b"abc\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"fox \xc0\x80", b"\xe4\xba")
_REGIONS = ("none", "", "../../etc/passwd", "x" * 3_000)


def _place(request: Infer, rng: Random) -> int:
    return rng.randrange(len(request.tensors))


def _datatype(request: Infer, model: Model, rng: Random) -> Infer:
    return request.with_tensor(_place(request, rng), datatype=rng.choice(_DATATYPES))


def _rank(request: Infer, model: Model, rng: Random) -> Infer:
    place = _place(request, rng)
    rows = request.tensors[place].shape[0]
    return request.with_tensor(place, shape=rng.choice([(), (rows,), (rows, 1, 1), (1,) * 40, (rows, 1) + (1,) * 5]))


def _width(request: Infer, model: Model, rng: Random) -> Infer:
    place, width = _place(request, rng), rng.randint(2, 5)
    rows = request.tensors[place].shape[0]
    texts = bytes_tensor(request.tensors[place].name, [b"fox"] * (rows * width))
    return request.with_tensor(place, shape=(rows, width), data=texts.data)


def _no_rows(request: Infer, model: Model, rng: Random) -> Infer:
    shape = rng.choice([(0, 1), (1, 0), (0, 0), (0,)])
    return replace(request, tensors=tuple(replace(tensor, shape=shape, data=b"") for tensor in request.tensors))


def _too_many_rows(request: Infer, model: Model, rng: Random) -> Infer:
    rows = model.max_batch_size + rng.choice([1, 2, 100])
    return replace(request, tensors=tuple(bytes_tensor(tensor.name, [b"a"] * rows) for tensor in request.tensors))


def _huge(request: Infer, model: Model, rng: Random) -> Infer:
    huge = rng.choice(_HUGE)
    return request.with_tensor(_place(request, rng), shape=rng.choice([(huge, 1), (1, huge), (huge, huge), (huge,)]))


def _beyond_32_bits(request: Infer, model: Model, rng: Random) -> Infer:
    rows = rng.choice(_BEYOND_32_BITS)
    return request.with_tensor(_place(request, rng), shape=(rows, 1))


def _negative(request: Infer, model: Model, rng: Random) -> Infer:
    less = rng.choice([-1, -2, -(2**31)])
    return request.with_tensor(_place(request, rng), shape=rng.choice([(less, 1), (1, less), (less, less), (less,)]))


def _rows_that_are_not_there(request: Infer, model: Model, rng: Random) -> Infer:
    place = _place(request, rng)
    rows = request.tensors[place].shape[0]
    return request.with_tensor(place, shape=(rows + rng.choice([1, 3, 50]), 1))


def _rows_left_over(request: Infer, model: Model, rng: Random) -> Infer:
    place = _place(request, rng)
    return request.with_tensor(place, data=request.tensors[place].data + bytes_tensor("", [b"dog"]).data)


def _other_name(request: Infer, model: Model, rng: Random) -> Infer:
    return request.with_tensor(_place(request, rng), name=rng.choice(_NAMES))


def _missing(request: Infer, model: Model, rng: Random) -> Infer:
    tensors = list(request.tensors)
    del tensors[_place(request, rng)]
    return replace(request, tensors=tuple(tensors))


def _extra(request: Infer, model: Model, rng: Random) -> Infer:
    extra = replace(request.tensors[0], name=rng.choice(_NAMES))
    return replace(request, tensors=(*request.tensors, *[extra] * rng.choice([1, 1, 60])))


def _twice(request: Infer, model: Model, rng: Random) -> Infer:
    return replace(request, tensors=(*request.tensors, request.tensors[_place(request, rng)]))


def _lying_prefix(request: Infer, model: Model, rng: Random) -> Infer:
    place = _place(request, rng)
    data = bytes_tensor("", [b"the fox"] * request.tensors[place].shape[0]).data
    true = 7
    lie = rng.choice([0, true - 1, true + 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4])
    return request.with_tensor(place, data=lie.to_bytes(4, "little") + data[4:])


def _cut_data(request: Infer, model: Model, rng: Random) -> Infer:
    place = _place(request, rng)
    data = bytes_tensor("", [b"the fox"] * request.tensors[place].shape[0]).data
    return request.with_tensor(place, data=data[: rng.randrange(len(data))])


def _no_utf8(request: Infer, model: Model, rng: Random) -> Infer:
    place = _place(request, rng)
    texts = [b"fox"] * request.tensors[place].shape[0]
    texts[rng.randrange(len(texts))] = rng.choice(_NO_UTF8) * rng.choice([1, 1, 1_000])
    return request.with_tensor(place, data=bytes_tensor("", texts).data)


def _unlike_rows(request: Infer, model: Model, rng: Random) -> Infer:
    if len(request.tensors) == 1:
        return _no_utf8(request, model, rng)
    rows = request.tensors[0].shape[0] + rng.choice([1, 5])
    return replace(request, tensors=(bytes_tensor(request.tensors[0].name, [b"a"] * rows), *request.tensors[1:]))


def _output(request: Infer, model: Model, rng: Random) -> Infer:
    wrong = rng.choice(["dense", "", "text", "x" * 4_000, "hidden_states", "none\x00", "人"])
    wrong = wrong if wrong not in {port.name for port in model.outputs} else "none"
    return replace(request, outputs=(*request.outputs[: rng.randint(0, 1)], wrong))


def _model(request: Infer, model: Model, rng: Random) -> Infer:
    wrong = rng.choice([model.name + "s", model.name.upper(), "no-such-model", "x" * 2_000, "%2e%2e", "m3_"])
    return replace(request, model=wrong)


def _version(request: Infer, model: Model, rng: Random) -> Infer:
    return replace(request, version=rng.choice(["2", "0", "-7", "one", "99999999999999999999", "0x1"]))


def _shared_memory(request: Infer, model: Model, rng: Random) -> Infer:
    size = rng.choice([1, 2**40, 2**63 - 1])
    region = {"shared_memory_region": rng.choice(_REGIONS), "shared_memory_byte_size": size}
    place = _place(request, rng)
    return request.with_tensor(place, parameters={**region, "shared_memory_offset": rng.choice([0, 2**62])})


TENSOR_KINDS: dict[str, Callable[[Infer, Model, Random], Infer]] = {
    "datatype": _datatype,
    "rank": _rank,
    "width": _width,
    "no rows": _no_rows,
    "too many rows": _too_many_rows,
    "huge dimension": _huge,
    "dimension beyond 32 bits": _beyond_32_bits,
    "negative dimension": _negative,
    "fewer rows than said": _rows_that_are_not_there,
    "more rows than said": _rows_left_over,
    "input's name": _other_name,
    "input missing": _missing,
    "input too many": _extra,
    "input twice": _twice,
    "lying BYTES prefix": _lying_prefix,
    "cut BYTES": _cut_data,
    "invalid UTF-8": _no_utf8,
    "queries and passages differ": _unlike_rows,
    "unknown output": _output,
    "unknown model": _model,
    "unknown version": _version,
    "unknown shared memory": _shared_memory,
}
"""What each does to a good request."""

UNCERTAIN = frozenset({"dimension beyond 32 bits"})
"""What Triton 2.51 may take for something well-formed: of a batch dimension it reads the low 32 bits."""
