# SPDX-License-Identifier: Apache-2.0
"""What is sent, down to the byte, and how; the same for the same seed and number."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["INFER", "STREAM_INFER", "Attack", "Manner", "Wire"]

_SERVICE = "/inference.GRPCInferenceService"
INFER = f"{_SERVICE}/ModelInfer"
STREAM_INFER = f"{_SERVICE}/ModelStreamInfer"


class Wire(enum.Enum):
    """What it travels by."""

    HTTP = "http"
    GRPC = "grpc"
    STREAM = "grpc stream"


class Manner(enum.Enum):
    """How a client behaves: it waits; says it is done; is gone at once; sends a piece now and then and is gone."""

    WAITS = "waits"
    ENDS = "ends"
    LEAVES = "leaves"
    DRIPS = "drips"


@dataclass(frozen=True)
class Attack:
    """One malformed request.

    Attributes:
        kind: of mutation.
        model: whom it is meant for; empty where nobody.
        payload: over HTTP all that goes through the socket, over gRPC the message.
        method: of gRPC, with its service.
        must_fail: success would be an error; False where the mutation may have left the request well-formed.
    """

    kind: str
    model: str
    wire: Wire
    payload: bytes
    method: str = INFER
    manner: Manner = Manner.WAITS
    must_fail: bool = True
