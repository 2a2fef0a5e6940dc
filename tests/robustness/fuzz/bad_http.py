# SPDX-License-Identifier: Apache-2.0
"""HTTP that no well-behaved client writes: bodies, lengths, paths, methods, manners."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.robustness.fuzz.attack import Attack, Manner, Wire
from tests.robustness.fuzz.bad_options import NESTED
from tests.robustness.fuzz.infer import Infer, http_message, infer_path, to_http
from tests.robustness.fuzz.models import Model
from tests.robustness.fuzz.mutation import mutated, random_bytes

__all__ = ["HTTP_KINDS", "generate_message"]

_LENGTH = "Inference-Header-Content-Length"


def _attack(model: Model, payload: bytes, **more: Any) -> Attack:
    return Attack("", model.name, Wire.HTTP, payload, **more)


def _random_body(request: Infer, model: Model, rng: Random) -> Attack:
    body = random_bytes(rng, rng.choice([0, 1, 7, 200, 60_000]))
    length = rng.randint(0, len(body))  # 0 says that the body is the one input's bytes
    headers = rng.choice([{}, {_LENGTH: str(length)}])
    path = rng.choice([infer_path(request), f"/v2/models/{model.name}/generate"])
    return _attack(model, http_message("POST", path, headers, body), must_fail=bool(length or (body and not headers)))


def _mutated_body(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    changed = mutated(body, rng)
    return _attack(model, http_message("POST", path, headers, changed), must_fail=False)


def _mutated_json(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    size = int(headers[_LENGTH])
    changed = mutated(body[:size], rng)
    headers[_LENGTH] = str(len(changed))
    return _attack(model, http_message("POST", path, headers, changed + body[size:]), must_fail=False)


_READ_AS_RIGHT = (0, "0x10", "0,5", "x")
"""What Triton reads as 0: the whole body is then the bytes of the one input."""


def _lying_header_length(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    true = int(headers[_LENGTH])
    lie = rng.choice([0, 1, true - 1, true + 2, len(body) + 1, 2**31, 2**63, -1, "x", "1e3", "0x10", 10**30, "0,5"])
    return _attack(
        model, http_message("POST", path, {**headers, _LENGTH: str(lie)}, body), must_fail=lie not in _READ_AS_RIGHT
    )


def _lying_binary_size(request: Infer, model: Model, rng: Random) -> Attack:
    place = rng.randrange(len(request.tensors))
    true = len(request.tensors[place].data)
    lie = rng.choice(
        [0, true - 1, true + 1, true * 2, 2**31, 2**32, 2**63 - 1, 2**64 - 1, -1, "5", 1.5, True, None, []]
    )
    lied = request.with_tensor(place, parameters={"binary_data_size": lie})
    return _attack(model, http_message("POST", *to_http(lied)))


def _odd_number(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    size, rows = int(headers[_LENGTH]), request.tensors[0].shape[0]
    odd = rng.choice(["1e400", "-0.5", "18446744073709551616", "1" * 400, '"1"', "null", "[1]", "{}", "true", "1.0"])
    text = body[:size].replace(f'"shape": [{rows}, 1]'.encode(), f'"shape": [{odd}, 1]'.encode(), 1)
    headers[_LENGTH] = str(len(text))
    return _attack(model, http_message("POST", path, headers, text + body[size:]))


def _odd_json(request: Infer, model: Model, rng: Random) -> Attack:
    odd = rng.choice(
        [{}, [], None, 5, "x", {"inputs": {}}, {"inputs": None}, {"inputs": [None]}, {"inputs": [[]]}, {"inputs": [{}]}]
        + [{"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": data}]} for data in _ODD_DATA]
        + [{"inputs": [{"name": 5, "shape": "x", "datatype": None}]}, {"id": 5}, {"inputs": [], "outputs": {}}]
    )
    return _attack(model, http_message("POST", infer_path(request), {}, json.dumps(odd).encode()))


_ODD_DATA: tuple[Any, ...] = (
    [],
    [1],
    [None],
    [[]],
    [["a", "b"]],
    "a",
    5,
    {},
    [True],
    [1.5],
    [["a"], ["b"]],
    ["a"] * 900,
)


def _nested_option(request: Infer, model: Model, rng: Random) -> Attack:
    name = rng.choice(["max_length", "truncate", "zz", "normalize"])
    path, headers, body = to_http(Infer(request.model, request.tensors, request.outputs, {name: rng.choice(NESTED)}))
    return _attack(model, http_message("POST", path, headers, body))


def _odd_generate(request: Infer, model: Model, rng: Random) -> Attack:
    names = [tensor.name for tensor in request.tensors]
    odd = rng.choice([None, 5, 1.5, True, [], {}, [1], ["a", "b"], [[["a"]]], {"a": 1}, "MISSING"])
    wrong = rng.choice(names)
    fields: dict[str, Any] = dict.fromkeys(names, "fox")
    fields[wrong] = odd
    if odd == "MISSING":
        del fields[wrong]
    takes_first = isinstance(odd, list) and bool(odd)  # Triton reads a list's first text and passes over the others
    return _attack(model, generate_message(model.name, fields, rng), must_fail=not takes_first)


def generate_message(model: str, fields: dict[str, Any], rng: Random) -> bytes:
    """Return a request to one of the two JSON endpoints."""
    path = f"/v2/models/{model}/{rng.choice(['generate', 'generate', 'generate_stream'])}"
    return http_message("POST", path, {"Content-Type": "application/json"}, json.dumps(fields).encode())


def _oversized(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    filling = rng.choice([b"\x00", b"x", b'{"a":1},', b"fox "]) * rng.choice([300_000, 1_000_000])
    if rng.random() < 0.5:
        headers = {}
        body = b'{"inputs": [' + filling
    return _attack(model, http_message("POST", path, headers, body + filling))


def _cut_body(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    whole = http_message(
        "POST", path, {**headers, "Content-Length": str(len(body) + rng.choice([1, 500, 2**33]))}, body
    )
    manner = rng.choice([Manner.ENDS, Manner.ENDS, Manner.LEAVES])
    return _attack(model, whole[: rng.randint(1, len(whole))], manner=manner)


def _left(request: Infer, model: Model, rng: Random) -> Attack:
    return _attack(model, http_message("POST", *to_http(request)), manner=Manner.LEAVES, must_fail=False)


def _dripping(request: Infer, model: Model, rng: Random) -> Attack:
    return _attack(model, http_message("POST", *to_http(request)), manner=Manner.DRIPS)


def _content_length(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    lie = rng.choice(["-1", "x", "1e3", "99999999999999999999", "0", "5", "+7", "0x40", " ", "7, 7"])
    return _attack(
        model, http_message("POST", path, {**headers, "Content-Length": lie}, body), manner=Manner.ENDS, must_fail=False
    )


def _chunks(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    sizes = rng.choice([b"%x\r\n" % len(body), b"zz\r\n", b"-5\r\n", b"ffffffffffffffff\r\n", b"5;ext\r\n"])
    chunked = {**headers, "Transfer-Encoding": "chunked", "Content-Length": rng.choice(["", "", "3"])}
    payload = http_message("POST", path, chunked, sizes + body + rng.choice([b"\r\n0\r\n\r\n", b"", b"\r\n"]))
    return _attack(model, payload, manner=Manner.ENDS, must_fail=False)


def _encoding(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    coded = {**headers, "Content-Encoding": rng.choice(["gzip", "deflate", "br", "gzip, gzip", "x" * 3_000])}
    junk = rng.choice([body, b"\x1f\x8b\x08" + random_bytes(rng, 300), b"\x78\x9c" + random_bytes(rng, 50), b""])
    return _attack(model, http_message("POST", path, coded, junk), must_fail=False)


_PATHS = (
    "/",
    "//",
    "/v2/models//infer",
    f"/v2/models/{'x' * 7_000}/infer",
    "*",
    "/v2/models/%ff%fe/infer",
    "/metrics/x",
)


def _path(request: Infer, model: Model, rng: Random) -> Attack:
    _, headers, body = to_http(request)
    name = model.name
    path = rng.choice(
        [
            *_PATHS,
            f"/v2/models/{name}/infers",
            f"/v2/models/{name}//infer",
            f"/v1/models/{name}/infer",
            f"/v2/models/{name}/versions//infer",
            f"/v2/models/{name}/versions/x/infer",
            f"/v2/models/{name}%00/infer",
            f"/v2/models/../models/{name}/infer",
            f"/v2/models/{name}/infer/1",
            f"v2/models/{name}/infer",
        ]
    )
    return _attack(model, http_message("POST", path, headers, body))


def _method(request: Infer, model: Model, rng: Random) -> Attack:
    path, headers, body = to_http(request)
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "P", "X" * 4_000, "POST\x00", ""])
    return _attack(model, http_message(method, path, headers, body), manner=Manner.ENDS)


def _no_http(request: Infer, model: Model, rng: Random) -> Attack:
    junk = rng.choice(
        [
            random_bytes(rng, rng.choice([1, 50, 5000])),
            b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"POST\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes(rng, 500),
            b"POST /v2 HTTP/9.9\r\n\r\n",
            b"GET /v2/health/live HTTP/1.1\r\nX: " + b"y" * 300000,
            b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
        ]
    )
    return _attack(model, junk, manner=Manner.ENDS)


HTTP_KINDS: dict[str, Callable[[Infer, Model, Random], Attack]] = {
    "random body": _random_body,
    "mutated body": _mutated_body,
    "mutated JSON": _mutated_json,
    "lying header length": _lying_header_length,
    "lying binary size": _lying_binary_size,
    "odd number in shape": _odd_number,
    "odd JSON": _odd_json,
    "nested option": _nested_option,
    "odd generate": _odd_generate,
    "oversized body": _oversized,
    "cut body": _cut_body,
    "left before the answer": _left,
    "dripping sender": _dripping,
    "Content-Length": _content_length,
    "chunks": _chunks,
    "Content-Encoding": _encoding,
    "path": _path,
    "method": _method,
    "no HTTP": _no_http,
}
