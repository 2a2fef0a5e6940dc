# SPDX-License-Identifier: Apache-2.0
"""One inference request, right or wrong, and how each wire writes it. Checks nothing: that is the server's part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

__all__ = ["SURROGATE", "Infer", "Tensor", "bytes_tensor", "http_message", "numbers_tensor", "to_grpc", "to_http"]

SURROGATE = "\ud800"
_IN_PLACE_OF_SURROGATE = "@\x01@"
_NUMPY = {"INT32": np.int32, "FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64, "FP16": np.float16}


@dataclass(frozen=True)
class Tensor:
    """An input as it is claimed to be, and its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Infer:
    """An inference request.

    Attributes:
        options: Triton's request parameters.
        version: of the model; empty is the newest.
    """

    model: str
    tensors: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def with_tensor(self, place: int, **changes: Any) -> Infer:
        """Return this request with something of one tensor changed."""
        tensors = list(self.tensors)
        tensors[place] = replace(tensors[place], **changes)
        return replace(self, tensors=tuple(tensors))


def bytes_tensor(name: str, texts: Sequence[bytes]) -> Tensor:
    """Return `[B, 1]` texts as a BYTES tensor."""
    data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return Tensor(name, "BYTES", (len(texts), 1), data)


def numbers_tensor(name: str, datatype: str, values: NDArray[Any]) -> Tensor:
    """Return an array as a tensor of some dtype."""
    return Tensor(name, datatype, values.shape, np.ascontiguousarray(values, _NUMPY[datatype]).tobytes())


def to_http(request: Infer) -> tuple[str, dict[str, str], bytes]:
    """Return path, headers and body of the binary form."""
    header = {
        "inputs": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": tensor.datatype,
                "parameters": {"binary_data_size": len(tensor.data), **tensor.parameters},
            }
            for tensor in request.tensors
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs],
        "parameters": {"binary_data_output": True, **request.options},
    }
    text = json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    return infer_path(request), headers, text + b"".join(tensor.data for tensor in request.tensors)


def infer_path(request: Infer) -> str:
    """Return where such a request goes."""
    version = f"/versions/{request.version}" if request.version else ""
    return f"/v2/models/{request.model}{version}/infer"


def http_message(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a whole HTTP request; a header that comes with `headers` is not written again."""
    written = {"Host": "fuzz", "Connection": "close", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in written.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def to_grpc(request: Infer) -> bytes:
    """Return the serialised message; dimensions beyond 64 bits are brought back into them."""
    message = service_pb2.ModelInferRequest(model_name=request.model, model_version=request.version)
    for tensor in request.tensors:
        shape = [max(-(2**63), min(2**63 - 1, dim)) for dim in tensor.shape]
        added = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        _set_parameters(added.parameters, tensor.parameters)
        message.raw_input_contents.append(tensor.data)
    for name in request.outputs:
        message.outputs.add(name=name)
    _set_parameters(message.parameters, request.options)
    return message.SerializeToString().replace(
        _IN_PLACE_OF_SURROGATE.encode(), SURROGATE.encode(errors="surrogatepass")
    )


def _set_parameters(parameters: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        parameter = parameters[_writable(name)]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            parameter.int64_param = value
        elif isinstance(value, (int, float)):
            parameter.double_param = float(value) if abs(value) < 2**1000 or isinstance(value, float) else math.inf
        elif isinstance(value, str):
            parameter.string_param = _writable(value)


def _writable(text: str) -> str:
    """Return a text that protobuf takes; it has no way to write a lone surrogate."""
    return text.replace(SURROGATE, _IN_PLACE_OF_SURROGATE)
