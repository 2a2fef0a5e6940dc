# SPDX-License-Identifier: Apache-2.0
"""Triton's requests to arrays and arrays to responses; the only importer of `triton_python_backend_utils`.

A request that is bad fails alone: `RequestError` becomes its answer, and the batch beside it goes on.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from flagtriton.protocol.error_positions import at_position
from flagtriton.protocol.metrics import Metric
from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.tensors import Tensor as TensorSpec
from flagtriton_server.backend.metrics_publisher import Series
from flagtriton_server.backend.response_budget import AnswerRoom
from flagtriton_server.errors import RequestError

__all__ = [
    "PbRequest",
    "PbResponse",
    "Reply",
    "array",
    "embed_options",
    "has",
    "log_error",
    "log_info",
    "open_series",
    "options",
    "rerank_options",
    "respond",
    "respond_elsewhere",
    "respond_later",
    "score_options",
    "texts",
]

T = TypeVar("T")

_NO_LIMIT = 2**31
_ROOM = AnswerRoom()
_SERIES: list[Any] = []  # never given up
_MOST_OF_A_MESSAGE = 2_000  # bytes; in a header each may take three

PbRequest: TypeAlias = Any
"""`pb_utils.InferenceRequest`, a class that exists only inside Triton's stub."""

PbResponse: TypeAlias = Any
"""`pb_utils.InferenceResponse`, likewise."""

Answer = Mapping[TensorSpec, NDArray[Any]]


def respond(
    requests: Sequence[PbRequest],
    read: Callable[[Any], T],
    run: Callable[[list[T]], Sequence[Answer | RequestError]],
) -> list[PbResponse]:
    """Answer a batch of requests, in their order.

    Args:
        requests: what Triton handed to `execute`.
        read: one request to what the step works on; may raise `RequestError` or `OptionError`.
        run: the work on all that could be read, one answer each; called only if there is any.
    """
    read_or_refused = [_read_one(request, read) for request in requests]
    accepted = [item for item in read_or_refused if not isinstance(item, Exception)]
    answers = iter(run(accepted) if accepted else ())
    return [_response(item if isinstance(item, Exception) else next(answers)) for item in read_or_refused]


class Reply:
    """The answer to one request, which may be sent after `execute` has returned, from any thread.

    Attributes:
        bulk: the request is part of a long job, which others may overtake.
        timeout_s: how long its client lets it wait in a queue, seconds.
        request_id: what its client calls it; may be empty.

    Raises:
        RequestError: its parameters cannot be read; nothing will be sent for it.
    """

    def __init__(self, request: PbRequest) -> None:
        self.bulk = options(request).get("bulk") is True
        self._request = request  # its tensors lie in shared memory as long as it is held
        self._sender = request.get_response_sender()
        self.timeout_s = request.timeout() / 1e6 or math.inf
        self.request_id = _id_of(request)

    def is_cancelled(self) -> bool:
        """Return whether the client has gone."""
        return bool(self._request.is_cancelled())

    def send(self, answer: Answer | Exception) -> None:
        """Send the answer, or the error in place of one; once."""
        refusal = None if isinstance(answer, Exception) else _ROOM.refusal(sum(v.nbytes for v in answer.values()))
        self._sender.send(_response(refusal or answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def respond_later(
    requests: Sequence[PbRequest],
    read: Callable[[Any], T],
    submit: Callable[[T, Reply], None],
    refused: Callable[[bool, Exception, str], None] = lambda bulk, error, request_id: None,
) -> list[PbResponse | None]:
    """Hand over a batch of requests one by one, and answer those that are refused.

    Args:
        requests: what Triton handed to `execute`.
        read: one request to what the step works on; may raise `RequestError` or `OptionError`.
        submit: sees to it that the reply is sent; may raise `RequestError`.
        refused: told of each that is refused: whether it is bulk, why, and what its client calls it.

    Returns:
        What `execute` is to return: for what has been handed over, None.
    """
    return [_submitted(request, read, submit, refused) for request in requests]


def respond_elsewhere(
    request: PbRequest,
    thread: Executor,
    read: Callable[[Any], T],
    submit: Callable[[T, Reply], None],
    refused: Callable[[bool, Exception, str], None],
) -> PbResponse | None:
    """Do as `respond_later` with one request, which is read by another thread as that takes long."""
    try:
        reply = Reply(request)
    except RequestError as error:
        refused(False, error, _id_of(request))
        return _response(error)
    thread.submit(_read_and_submitted, request, reply, read, submit, refused)
    return None


def texts(request: PbRequest, spec: TensorSpec, *, max_total_bytes: int) -> list[str]:
    """Return the texts of one of the request's tensors.

    Args:
        request: it.
        spec: the tensor.
        max_total_bytes: of all of them, UTF-8.

    Raises:
        RequestError: a text is not UTF-8, or they are too long.
    """
    rows = array(request, spec).reshape(-1)
    sizes = [len(row) for row in rows]
    size = sum(sizes)
    if size > max_total_bytes:
        if max(sizes) > max_total_bytes:
            index = sizes.index(max(sizes))
            raise RequestError(
                f"{at_position(spec.name, index)} has {sizes[index]} bytes; this model takes {max_total_bytes} in one "
                "request: cut it, or deploy the model with a greater --max-request-bytes"
            )
        raise RequestError(
            f"{spec.name} has {size} bytes in all; this model takes {max_total_bytes}: send fewer texts in each request"
        )
    return [_decoded(row, spec.name, index) for index, row in enumerate(rows)]


def has(request: PbRequest, spec: TensorSpec) -> bool:
    """Return whether an optional input came."""
    return pb_utils.get_input_tensor_by_name(request, spec.name) is not None


def array(request: PbRequest, spec: TensorSpec) -> NDArray[Any]:
    """Return an input tensor.

    Raises:
        RequestError: the request does not bring it.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, spec.name)
    if tensor is None:
        raise RequestError(f"input {spec.name!r} is missing")
    return tensor.as_numpy()


def done(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return `DONE` of as many rows."""
    return np.zeros((len(rows), 1), dtype=np.float32)


def options(request: PbRequest) -> dict[str, Any]:
    """Return the request's parameters.

    Raises:
        RequestError: they cannot be read, as where a name or a value is not UTF-8, which Triton lets pass.
    """
    try:
        return json.loads(request.parameters() or "{}")
    except ValueError as error:  # a UnicodeDecodeError is one
        raise RequestError(f"the request's parameters cannot be read: {error}; send UTF-8") from error


def embed_options(
    request: PbRequest, *, normalize: bool | None = None, truncate_dim: int | None = None
) -> EmbedOptions:
    """Return the options of a request that the tokenizer step has read before, and checked the lengths of.

    Args:
        request: as it came.
        normalize: whether its vectors are normalised if it does not say; None is true.
        truncate_dim: how many of their components it gets if it does not say; None is all.

    Raises:
        OptionError: it came straight to this step, with an option that is not allowed.
    """
    return EmbedOptions.from_parameters(
        options(request),
        min_length=1,
        max_length=_NO_LIMIT,
        normalize=normalize is not False,
        truncate_dim=truncate_dim,
    )


def score_options(request: PbRequest) -> ScoreOptions:
    """Return the options of a request for scores; as `embed_options`."""
    return ScoreOptions.from_parameters(options(request), min_length=1, max_length=_NO_LIMIT)


def rerank_options(request: PbRequest, model_class: str) -> RerankOptions:
    """Return the options of a request to a reranker of some class; as `embed_options`."""
    limits = {"min_length": 1, "max_length": _NO_LIMIT}
    return RerankOptions.from_parameters(options(request), **limits, model_class=model_class)


def open_series(metric: Metric, labels: Mapping[str, str]) -> Series:
    """Return one of Triton's own metrics with some labels, for good: 24.10's stub crashes where one is given up."""
    series = _family(metric).Metric(labels=dict(labels))
    _SERIES.append(series)
    return series


def log_info(message: str) -> None:
    """Write one line into the server's log."""
    pb_utils.Logger.log_info(f"[flagtriton] {message}")


def log_error(message: str) -> None:
    """Write an error into the server's log."""
    pb_utils.Logger.log_error(f"[flagtriton] {message}")


def _read_one(request: PbRequest, read: Callable[[Any], T]) -> T | Exception:
    if request.is_cancelled():
        return RequestError("the client has cancelled this request", "CANCELLED")
    try:
        return read(request)
    except (RequestError, OptionError) as error:
        return error


def _submitted(
    request: PbRequest,
    read: Callable[[Any], T],
    submit: Callable[[T, Reply], None],
    refused: Callable[[bool, Exception, str], None],
) -> PbResponse | None:
    item = _read_one(request, read)
    if not isinstance(item, Exception):
        try:
            reply = Reply(request)
        except RequestError as error:
            item = error
    if isinstance(item, Exception):
        refused(False, item, _id_of(request))
        return _response(item)
    _hand_over(item, reply, submit, refused)
    return None


def _read_and_submitted(
    request: PbRequest,
    reply: Reply,
    read: Callable[[Any], T],
    submit: Callable[[T, Reply], None],
    refused: Callable[[bool, Exception, str], None],
) -> None:
    try:
        item = _read_one(request, read)
    except Exception as error:  # whatever it is, its client must be told
        log_error(traceback.format_exc())
        item = RequestError(f"the request could not be read: {type(error).__name__}, see the log", "INTERNAL")
    if isinstance(item, Exception):
        refused(reply.bulk, item, reply.request_id)
        reply.send(item)
    else:
        _hand_over(item, reply, submit, refused)


def _hand_over(
    item: T, reply: Reply, submit: Callable[[T, Reply], None], refused: Callable[[bool, Exception, str], None]
) -> None:
    try:
        submit(item, reply)
    except RequestError as error:
        refused(reply.bulk, error, reply.request_id)
        reply.send(error)


def _id_of(request: PbRequest) -> str:
    """Return what a client calls its request; nothing where that is not UTF-8."""
    try:
        return str(request.request_id())
    except UnicodeDecodeError:
        return ""


def _decoded(row: bytes, kind: str, index: int) -> str:
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{kind} {index} is not valid UTF-8: byte 0x{row[error.start]:02x} at position {error.start}; send UTF-8"
        ) from error


@cache
def _family(metric: Metric) -> Any:  # noqa: ANN401 - `pb_utils.MetricFamily`
    kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
    return pb_utils.MetricFamily(name=metric.name, description=metric.help, kind=kind)


def _cut(message: str) -> str:
    """Return a message that fits: gRPC sends it as a header, and answers with another error where that is too long."""
    encoded = message.encode()
    return message if len(encoded) <= _MOST_OF_A_MESSAGE else f"{encoded[:_MOST_OF_A_MESSAGE].decode(errors='ignore')}…"


def _response(answer: Answer | Exception) -> PbResponse:
    if isinstance(answer, Exception):
        code = getattr(pb_utils.TritonError, getattr(answer, "code", "INVALID_ARG"))
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(_cut(str(answer)), code))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(spec.name, np.ascontiguousarray(values)) for spec, values in answer.items()]
    )
