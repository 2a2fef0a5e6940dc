# SPDX-License-Identifier: Apache-2.0
"""Triton's requests as steps read them: tensors, and options that are parsed once, before anything else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from flagtriton.protocol.error_positions import at_position
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.tensors import TensorSpec
from flagtriton_server.errors import RequestError

__all__ = ["PbRequest", "RequestContext", "StepRequest"]

PbRequest: TypeAlias = Any
"""`pb_utils.InferenceRequest`, a class that exists only inside Triton's stub."""

_NO_LIMIT = 2**31


@dataclass(frozen=True)
class RequestContext:
    """Everything that a client sends with a request, except its tensors.

    Attributes:
        options: parameters of the request.
        bulk: whether it is part of a long job, which interactive requests may overtake.
        timeout_s: longest wait in the queue that the client accepts, seconds.
        request_id: the client's ID of the request; may be empty.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    bulk: bool = False
    timeout_s: float = math.inf
    request_id: str = ""


@dataclass(frozen=True)
class StepRequest:
    """One request of a step: the only wrapper around Triton's own object.

    Attributes:
        context: options, priority, timeout and ID of the request.
        error: the reason if the parameters cannot be read, else None. The context then has no options and is not bulk.
    """

    pb_request: PbRequest
    context: RequestContext
    error: RequestError | None = None

    @classmethod
    def of(cls, pb_request: PbRequest) -> StepRequest:
        """Return the wrapper of Triton's object and parse its parameters."""
        timeout_s = pb_request.timeout() / 1e6 or math.inf
        request_id = _id_of(pb_request)
        try:
            options = json.loads(pb_request.parameters() or "{}")
        except ValueError as error:  # or its subclass UnicodeDecodeError: Triton accepts text that is not UTF-8
            refusal = RequestError(f"the request's parameters cannot be read: {error}; send UTF-8")
            return cls(pb_request, RequestContext({}, False, timeout_s, request_id), refusal)
        return cls(pb_request, RequestContext(options, options.get("bulk") is True, timeout_s, request_id))

    def is_cancelled(self) -> bool:
        """Return whether the client has gone."""
        return bool(self.pb_request.is_cancelled())

    def has(self, spec: TensorSpec) -> bool:
        """Return whether the request has an optional input."""
        return pb_utils.get_input_tensor_by_name(self.pb_request, spec.name) is not None

    def array(self, spec: TensorSpec) -> NDArray[Any]:
        """Return an input tensor.

        Raises:
            RequestError: the request does not have it.
        """
        tensor = pb_utils.get_input_tensor_by_name(self.pb_request, spec.name)
        if tensor is None:
            raise RequestError(f"input {spec.name!r} is missing")
        return tensor.as_numpy()

    def byte_count(self, specs: Sequence[TensorSpec]) -> int:
        """Return the number of bytes of all texts in some inputs; an input that the request lacks counts as empty."""
        return sum(len(row) for spec in specs if self.has(spec) for row in self.array(spec).reshape(-1))

    def texts(self, spec: TensorSpec, *, max_total_bytes: int) -> list[str]:
        """Return the texts of an input.

        Args:
            spec: the input.
            max_total_bytes: limit for all texts together, bytes of UTF-8.

        Raises:
            RequestError: a text is not UTF-8, or the texts exceed the limit.
        """
        rows = self.array(spec).reshape(-1)
        sizes = [len(row) for row in rows]
        size = sum(sizes)
        if size > max_total_bytes:
            if max(sizes) > max_total_bytes:
                index = sizes.index(max(sizes))
                raise RequestError(
                    f"{at_position(spec.name, index)} has {sizes[index]} bytes; this model takes {max_total_bytes} in "
                    "one request: cut it, or deploy the model with a greater --max-request-bytes"
                )
            raise RequestError(
                f"{spec.name} has {size} bytes in all; this model takes {max_total_bytes}: send fewer texts in each "
                "request"
            )
        return [_decoded(row, spec.name, index) for index, row in enumerate(rows)]

    def embed_options(self, *, normalize: bool | None = None, truncate_dim: int | None = None) -> EmbedOptions:
        """Return the options of a request whose lengths the tokenizer step has already checked.

        Args:
            normalize: whether to normalize vectors if the request does not set it; None is true.
            truncate_dim: number of components if the request does not set it; None is all.

        Raises:
            OptionError: the request came straight to this step, with an option that is not allowed.
        """
        return EmbedOptions.from_parameters(
            self.context.options,
            min_length=1,
            max_length=_NO_LIMIT,
            normalize=normalize is not False,
            truncate_dim=truncate_dim,
        )

    def score_options(self) -> ScoreOptions:
        """Return the options of a request for scores, under the same conditions as `embed_options`."""
        return ScoreOptions.from_parameters(self.context.options, min_length=1, max_length=_NO_LIMIT)

    def rerank_options(self, model_class: str) -> RerankOptions:
        """Return the options of a request to a reranker of a model class, like `embed_options`."""
        limits = {"min_length": 1, "max_length": _NO_LIMIT}
        return RerankOptions.from_parameters(self.context.options, **limits, model_class=model_class)


def _id_of(pb_request: PbRequest) -> str:
    """Return the client's ID of a request; empty if it is not UTF-8."""
    try:
        return str(pb_request.request_id())
    except UnicodeDecodeError:
        return ""


def _decoded(row: bytes, kind: str, index: int) -> str:
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{kind} {index} is not valid UTF-8: byte 0x{row[error.start]:02x} at position {error.start}; send UTF-8"
        ) from error
