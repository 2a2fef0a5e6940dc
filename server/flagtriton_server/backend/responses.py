# SPDX-License-Identifier: Apache-2.0
"""Arrays and errors to Triton's responses, at once or later.

A bad request fails alone: `RequestError` becomes its answer, and the requests that came with it go on.
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
"""gRPC sends a message as a header, in which each byte may take three, and fails where it is too long."""

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
        read: makes of one request what `run` works on; may raise `RequestError` or `OptionError`.
        run: the work on all requests that could be read, one answer each; called only if there are any.
    """
    read_or_rejected = [_read_one(StepRequest.of(request), read) for request in requests]
    accepted = [item for item in read_or_rejected if not isinstance(item, Exception)]
    answers = iter(run(accepted) if accepted else ())
    return [_response(item if isinstance(item, Exception) else next(answers)) for item in read_or_rejected]


class ResponseSender:
    """Sends the answer to one request after `execute` has returned, from any thread.

    The request's tensors lie in shared memory as long as this holds the request.
    """

    def __init__(self, request: StepRequest) -> None:
        self._request = request
        self._sender = request.pb_request.get_response_sender()

    def is_cancelled(self) -> bool:
        """Return whether the client has gone."""
        return self._request.is_cancelled()

    def send(self, answer: Answer | Exception) -> None:
        """Send the answer, or the error in place of one; once."""
        refusal = None if isinstance(answer, Exception) else _BUDGET.refusal(sum(v.nbytes for v in answer.values()))
        self._sender.send(_response(refusal or answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def respond_later(
    pb_request: PbRequest,
    read: Callable[[StepRequest], T],
    submit: Callable[[T, RequestContext, ResponseSender], None],
    on_rejected: Callable[[RequestContext, Exception], None] = lambda context, error: None,
    reader_of: Callable[[StepRequest], Executor | None] = lambda request: None,
) -> PbResponse | None:
    """Hand over a request whose answer is sent later, or return the answer to one that is rejected.

    Args:
        pb_request: an element of the argument of Triton's `execute`.
        read: makes of the request what the step works on; may raise `RequestError` or `OptionError`.
        submit: takes care that the sender sends an answer; may raise `RequestError`.
        on_rejected: called for a request that is rejected.
        reader_of: returns the thread that reads a request which takes long to read; None reads it at once.

    Returns:
        What `execute` returns for it: None once it is handed over.
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
    """Return the tensor `DONE` of as many rows."""
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
