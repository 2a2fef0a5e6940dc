# SPDX-License-Identifier: Apache-2.0
"""Triton's responses from arrays and errors, sent at once or later.

A bad request fails alone: its answer is a `RequestError`, and the other requests of the batch continue.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeAlias, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.tensors import TensorSpec
from flagtriton_server.backend.requests import PbRequest, RequestContext, StepRequest
from flagtriton_server.backend.response_budget import ResponseBudget
from flagtriton_server.backend.server_log import log_error
from flagtriton_server.errors import RequestError

__all__ = ["PbResponse", "ResponseSender", "done", "respond", "respond_later"]

T = TypeVar("T")

_BUDGET = ResponseBudget()
_MAX_MESSAGE_BYTES = 2_000
"""Limit of an error message, bytes. gRPC sends it in a header, where a byte may take three. Long headers fail."""

PbResponse: TypeAlias = Any
"""`pb_utils.InferenceResponse`, a class that exists only inside Triton's stub."""

Answer = Mapping[TensorSpec, NDArray[Any]]


def respond(
    requests: Sequence[PbRequest],
    read: Callable[[StepRequest], T],
    run: Callable[[list[T]], Sequence[Answer | RequestError]],
) -> list[PbResponse]:
    """Answer a batch of requests, in their order.

    Args:
        requests: the argument of Triton's `execute`.
        read: parses one request for `run`; may raise `RequestError` or `OptionError`.
        run: returns one answer for each request that could be read; called only if there are any.
    """
    read_or_rejected = [_read_one(StepRequest.of(request), read) for request in requests]
    accepted = [item for item in read_or_rejected if not isinstance(item, Exception)]
    answers = iter(run(accepted) if accepted else ())
    return [_response(item if isinstance(item, Exception) else next(answers)) for item in read_or_rejected]


class ResponseSender:
    """Sends the answer to one request after `execute` has returned, from any thread.

    The request's tensors stay in shared memory as long as this object holds the request.
    """

    def __init__(self, request: StepRequest) -> None:
        self._request = request
        self._sender = request.pb_request.get_response_sender()

    def is_cancelled(self) -> bool:
        """Return whether the client has gone."""
        return self._request.is_cancelled()

    def send(self, answer: Answer | Exception) -> None:
        """Send the answer, or an error in place of one; to be called once.

        An answer that does not fit into the shared memory is replaced by an error.
        """
        refusal = None if isinstance(answer, Exception) else _BUDGET.refusal(sum(v.nbytes for v in answer.values()))
        self._sender.send(_response(refusal or answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def respond_later(
    pb_request: PbRequest,
    read: Callable[[StepRequest], T],
    submit: Callable[[T, RequestContext, ResponseSender], None],
    on_rejected: Callable[[RequestContext, Exception], None] = lambda context, error: None,
    reader_of: Callable[[StepRequest], Executor | None] = lambda request: None,
) -> PbResponse | None:
    """Submit a request whose answer is sent later, or return the response of one that is rejected at once.

    Args:
        pb_request: an element of the argument of Triton's `execute`.
        read: parses the request for the step; may raise `RequestError` or `OptionError`.
        submit: takes the parsed request and ensures that the sender sends an answer; may raise `RequestError`.
        on_rejected: called for each request that is rejected.
        reader_of: returns the executor that reads a request that takes long to read; None reads it at once.

    Returns:
        The element of the result of `execute`: None if the answer goes through the sender.
    """
    request = StepRequest.of(pb_request)
    reader = None if request.error else reader_of(request)
    if reader is not None:
        reader.submit(_read_and_submit, request, ResponseSender(request), read, submit, on_rejected)
        return None
    item = _read_one(request, read)
    if isinstance(item, Exception):
        on_rejected(request.context, item)
        return _response(item)
    _submit(item, request.context, ResponseSender(request), submit, on_rejected)
    return None


def done(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return the tensor `DONE` with the same number of rows: zeros `[B, 1]`."""
    return np.zeros((len(rows), 1), dtype=np.float32)


def _read_one(request: StepRequest, read: Callable[[StepRequest], T]) -> T | Exception:
    if request.is_cancelled():
        return RequestError("the client has cancelled this request", "CANCELLED")
    if request.error is not None:
        return request.error
    try:
        return read(request)
    except (RequestError, OptionError) as error:
        return error


def _read_and_submit(
    request: StepRequest,
    sender: ResponseSender,
    read: Callable[[StepRequest], T],
    submit: Callable[[T, RequestContext, ResponseSender], None],
    on_rejected: Callable[[RequestContext, Exception], None],
) -> None:
    try:
        item = _read_one(request, read)
    except Exception as error:  # any error: the client must get an answer
        log_error(traceback.format_exc())
        item = RequestError(f"the request could not be read: {type(error).__name__}, see the log", "INTERNAL")
    if isinstance(item, Exception):
        on_rejected(request.context, item)
        sender.send(item)
    else:
        _submit(item, request.context, sender, submit, on_rejected)


def _submit(
    item: T,
    context: RequestContext,
    sender: ResponseSender,
    submit: Callable[[T, RequestContext, ResponseSender], None],
    on_rejected: Callable[[RequestContext, Exception], None],
) -> None:
    try:
        submit(item, context, sender)
    except RequestError as error:
        on_rejected(context, error)
        sender.send(error)


def _cut(message: str) -> str:
    encoded = message.encode()
    return message if len(encoded) <= _MAX_MESSAGE_BYTES else f"{encoded[:_MAX_MESSAGE_BYTES].decode(errors='ignore')}…"


def _response(answer: Answer | Exception) -> PbResponse:
    if isinstance(answer, Exception):
        code = getattr(pb_utils.TritonError, getattr(answer, "code", "INVALID_ARG"))
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(_cut(str(answer)), code))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(spec.name, np.ascontiguousarray(values)) for spec, values in answer.items()]
    )
