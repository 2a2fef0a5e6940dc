# SPDX-License-Identifier: Apache-2.0
"""gRPC messages that no stub writes: bytes that are no protobuf, contents that contradict themselves, early ends."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tritonclient.grpc import service_pb2

from tests.robustness.fuzz.attack import INFER, STREAM_INFER, Attack, Manner, Wire
from tests.robustness.fuzz.infer import Infer, to_grpc
from tests.robustness.fuzz.models import Model
from tests.robustness.fuzz.mutation import mutated, random_bytes

__all__ = ["GRPC_KINDS"]

_SERVICE = INFER.rpartition("/")[0]
_READING = tuple(f"{_SERVICE}/{name}" for name in ("ModelMetadata", "ModelConfig", "ModelReady", "ModelStatistics"))


def _attack(model: Model, payload: bytes, rng: Random, **more: Any) -> Attack:
    wire = Wire.STREAM if rng.random() < 0.25 else Wire.GRPC
    method = STREAM_INFER if wire is Wire.STREAM else INFER
    return Attack("", model.name, payload=payload, **{"wire": wire, "method": method, **more})


def _random_message(request: Infer, model: Model, rng: Random) -> Attack:
    return _attack(model, random_bytes(rng, rng.choice([0, 1, 9, 300, 70_000])), rng)


def _mutated_message(request: Infer, model: Model, rng: Random) -> Attack:
    return _attack(model, mutated(to_grpc(request), rng), rng, must_fail=False)


def _cut_message(request: Infer, model: Model, rng: Random) -> Attack:
    whole = to_grpc(Infer(request.model, request.tensors))
    return _attack(model, whole[: rng.randrange(len(whole))], rng)


def _contents(request: Infer, model: Model, rng: Random) -> Attack:
    message = service_pb2.ModelInferRequest.FromString(to_grpc(request))
    how = rng.choice(["none", "fewer", "more", "both", "other type", "too few"])
    if how == "more":
        message.raw_input_contents.append(b"")
    elif how != "both":
        del message.raw_input_contents[rng.randrange(len(message.raw_input_contents)) if how == "fewer" else 0 :]
    for tensor in message.inputs:
        if how in ("both", "too few"):
            tensor.contents.bytes_contents.extend([b"fox"] * (tensor.shape[0] - (how == "too few")))
        elif how == "other type":
            tensor.contents.int_contents.extend([1] * tensor.shape[0])
    return _attack(model, message.SerializeToString(), rng, must_fail=how != "more")  # Triton passes over what is left


def _parameter_without_value(request: Infer, model: Model, rng: Random) -> Attack:
    message = service_pb2.ModelInferRequest.FromString(to_grpc(request))
    message.parameters[rng.choice(["max_length", "zz", "timeout", "truncate"])].SetInParent()
    return _attack(model, message.SerializeToString(), rng, must_fail=False)


def _tritons_parameter(request: Infer, model: Model, rng: Random) -> Attack:
    name = rng.choice(
        ["sequence_id", "sequence_start", "priority", "timeout", "triton_x", "headers", "binary_data_output"]
    )
    value = rng.choice([-1, 0, 1, 2**63 - 1, "x", True, 1.5, "x" * 5_000])
    wrong = Infer(request.model, request.tensors, request.outputs, {name: value})
    return _attack(model, to_grpc(wrong), rng, must_fail=False)


def _oversized(request: Infer, model: Model, rng: Random) -> Attack:
    filling = rng.choice([b"\x00", b"x"]) * rng.choice([1_000_000, 4_000_000])
    message = service_pb2.ModelInferRequest.FromString(to_grpc(request))
    left_over = rng.random() < 0.5
    if left_over:
        message.raw_input_contents.append(filling)
    else:
        message.model_name = filling.decode()
    return _attack(model, message.SerializeToString(), rng, must_fail=not left_over)


def _method(request: Infer, model: Model, rng: Random) -> Attack:
    wrong = [
        f"{_SERVICE}/ModelInfers",
        f"{_SERVICE}/",
        "/inference.Other/ModelInfer",
        "/",
        f"{_SERVICE}/" + "x" * 3_000,
    ]
    return _attack(model, to_grpc(request), rng, wire=Wire.GRPC, method=rng.choice(wrong))


def _reading(request: Infer, model: Model, rng: Random) -> Attack:
    message = rng.choice([random_bytes(rng, 60), service_pb2.ModelReadyRequest(name="none").SerializeToString()])
    return _attack(model, message, rng, wire=Wire.GRPC, method=rng.choice(_READING), must_fail=False)


def _left(request: Infer, model: Model, rng: Random) -> Attack:
    # No stream: tritonserver 2.51 ends with signal 11, in StreamInferResponseComplete, where those are cancelled.
    return _attack(model, to_grpc(request), rng, wire=Wire.GRPC, method=INFER, manner=Manner.LEAVES, must_fail=False)


GRPC_KINDS: dict[str, Callable[[Infer, Model, Random], Attack]] = {
    "random message": _random_message,
    "mutated message": _mutated_message,
    "cut message": _cut_message,
    "contents": _contents,
    "parameter without value": _parameter_without_value,
    "Triton's own parameters": _tritons_parameter,
    "oversized message": _oversized,
    "method of gRPC": _method,
    "reading methods": _reading,
    "cancelled": _left,
}
