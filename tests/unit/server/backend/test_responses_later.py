# SPDX-License-Identifier: Apache-2.0
"""`backend.responses`: answers that are sent after `execute` has returned."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.tensors import TOKEN_COUNT
from flagtriton_server.errors import RequestError
from tests.support.steps.fake_backend import Request, Response, TritonError, imported_steps


@pytest.fixture
def triton_io(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with imported_steps(monkeypatch, "backend.requests", "backend.responses", "backend.server_log") as modules:

        def respond_later(requests: list[Request], *functions: Any) -> list[Response | None]:
            return [modules.responses.respond_later(each, *functions) for each in requests]

        def sender(asked: Request) -> Any:
            return modules.responses.ResponseSender(modules.requests.StepRequest.of(asked))

        yield SimpleNamespace(
            respond_later=respond_later,
            sender=sender,
            context=lambda asked: modules.requests.StepRequest.of(asked).context,
            pb_utils=modules.responses.pb_utils,
            log_error=modules.server_log.log_error,
        )


def request(number: int = 0, options: str = "", **more: Any) -> Request:
    return Request({TOKEN_COUNT.name: np.array([[number]], dtype=np.int32)}, options, **more)


def read(asked: Any) -> int:
    """Return the request's one number, unless it is negative."""
    (number,) = asked.array(TOKEN_COUNT)[:, 0].tolist()
    if number < 0:
        raise (RequestError if number == -1 else OptionError)(f"{number} is negative")
    return number


def answer(number: int) -> dict[Any, Any]:
    return {TOKEN_COUNT: np.array([[number]], dtype=np.int32)}


def value_of(response: Response) -> int:
    assert response.error is None
    (number,) = response.tensors[TOKEN_COUNT.name].reshape(-1).tolist()
    return number


def test_a_request_that_is_handed_over_has_no_response_yet(triton_io: Any) -> None:
    handed_over: list[Any] = []
    requests = [request(1), request(2)]
    responses = triton_io.respond_later(requests, read, lambda number, _, reply: handed_over.append((number, reply)))
    assert responses == [None, None]
    assert [number for number, _ in handed_over] == [1, 2]
    for number, reply in reversed(handed_over):
        reply.send(answer(10 * number))
    assert [value_of(each.sender.response()) for each in requests] == [10, 20]


def test_a_request_that_is_refused_is_answered_at_once_and_not_handed_over(triton_io: Any) -> None:
    handed_over: list[int] = []
    requests = [request(1), request(-1), request(2), request(-2)]
    responses = triton_io.respond_later(requests, read, lambda number, *_: handed_over.append(number))
    assert [response and response.error.args for response in responses] == [
        None,
        ("-1 is negative", TritonError.INVALID_ARG),
        None,
        ("-2 is negative", TritonError.INVALID_ARG),
    ]
    assert handed_over == [1, 2]


def test_a_request_that_is_cancelled_already_is_answered_at_once(triton_io: Any) -> None:
    handed_over: list[int] = []
    requests = [request(1, cancelled=True), request(2)]
    refused, later = triton_io.respond_later(requests, read, lambda number, *_: handed_over.append(number))
    assert refused.error.args == ("the client has cancelled this request", TritonError.CANCELLED)
    assert (later, handed_over) == (None, [2])


def test_a_request_that_finds_no_room_is_told_so_later_and_fails_alone(triton_io: Any) -> None:
    def submit(number: int, _: Any, reply: Any) -> None:
        if number == 2:
            raise RequestError("the model is busy", "UNAVAILABLE")
        reply.send(answer(number))

    requests = [request(1), request(2), request(3)]
    assert triton_io.respond_later(requests, read, submit) == [None] * 3
    first, refused, last = (each.sender.response() for each in requests)
    assert refused.error.args == ("the model is busy", TritonError.UNAVAILABLE)
    assert (value_of(first), value_of(last)) == (1, 3)


def test_an_error_of_the_steps_own_is_not_hidden(triton_io: Any) -> None:
    def submit(number: int, *_: Any) -> None:
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        triton_io.respond_later([request(1)], read, submit)


@pytest.mark.parametrize("code", ["INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"])
def test_an_error_that_is_sent_later_keeps_its_code(triton_io: Any, code: str) -> None:
    asked = request()
    triton_io.sender(asked).send(RequestError("why", code))
    assert asked.sender.response().error.args == ("why", getattr(TritonError, code))


@pytest.mark.parametrize(
    ("options", "bulk"),
    [
        ({"bulk": True}, True),
        ({"bulk": True, "max_length": 7}, True),
        ({"bulk": False}, False),
        ({"max_length": 7}, False),
        ({"bulk": 1}, False),
        ({"bulk": "true"}, False),
        ({"priority": 2}, False),
    ],
)
def test_a_request_is_bulk_where_its_option_says_so(triton_io: Any, options: dict[str, Any], bulk: bool) -> None:
    assert triton_io.context(request(options=json.dumps(options))).bulk is bulk


def test_a_request_without_parameters_is_interactive(triton_io: Any) -> None:
    assert triton_io.context(request(options="")).bulk is False


@pytest.mark.parametrize(("timeout_us", "timeout_s"), [(0, math.inf), (1, 1e-6), (2_500_000, 2.5)])
def test_a_request_waits_as_long_as_its_client_lets_it(triton_io: Any, timeout_us: int, timeout_s: float) -> None:
    assert triton_io.context(request(timeout_us=timeout_us)).timeout_s == timeout_s


def test_whether_a_request_is_cancelled_is_asked_anew_each_time(triton_io: Any) -> None:
    asked = request()
    reply = triton_io.sender(asked)
    assert reply.is_cancelled() is False
    asked.cancelled = True
    assert reply.is_cancelled() is True


def test_an_error_in_the_log_says_whose_it_is(triton_io: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(triton_io.pb_utils.Logger, "log_error", lines.append)
    triton_io.log_error("it broke")
    assert lines == ["[flagtriton] it broke"]


def test_parameters_that_are_not_utf8_fail_their_request_alone(triton_io: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> str:
        return b"\xcf(".decode()

    bad, good = request(1), request(2)
    monkeypatch.setattr(bad, "parameters", unreadable)
    handed_over: list[int] = []
    refused, later = triton_io.respond_later([bad, good], read, lambda number, *_: handed_over.append(number))
    assert "the request's parameters cannot be read" in str(refused.error.args[0])
    assert (later, handed_over) == (None, [2])


@pytest.mark.parametrize("sent", ["{", "bulk", '{"bulk": tru'])
def test_a_request_that_is_answered_at_once_has_no_answer_to_come(
    triton_io: Any, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever asks for a sender has to send the final response through it.
    asked: list[Request] = []
    monkeypatch.setattr(Request, "get_response_sender", lambda self: asked.append(self) or self.sender)
    requests = [request(-1), request(1, cancelled=True), request(1, sent), request(2)]
    responses = triton_io.respond_later(requests, read, lambda *_: None)
    assert [response is not None for response in responses] == [True, True, True, False]
    message, code = responses[2].error.args
    assert message.startswith("the request's parameters cannot be read: ")
    assert code == TritonError.INVALID_ARG
    assert asked == requests[3:]


BULK = json.dumps({"bulk": True})


def test_each_refusal_is_told_with_its_priority_and_its_request_s_name(triton_io: Any) -> None:
    told: list[Any] = []

    def submit(number: int, _: Any, reply: Any) -> None:
        if number == 7:
            raise RequestError("no room", "UNAVAILABLE")

    requests = [
        request(1, name="good"),
        request(-1, name="bad"),
        request(7, BULK, name="late"),
        request(-1, BULK, name="bulk"),
    ]
    triton_io.respond_later(requests, read, submit, lambda *refusal: told.append(refusal))
    assert [(context.bulk, str(error), context.request_id) for context, error in told] == [
        (False, "-1 is negative", "bad"),
        (True, "no room", "late"),
        (True, "-1 is negative", "bulk"),
    ]


def test_a_name_that_is_not_utf_8_harms_no_request(triton_io: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def request_id(_: Request) -> str:
        return b"\xff".decode()

    monkeypatch.setattr(Request, "request_id", request_id)
    handed_over: list[Any] = []
    told: list[Any] = []
    refused, later = triton_io.respond_later(
        [request(-1), request(3)],
        read,
        lambda _, context, __: handed_over.append(context),
        lambda *each: told.append(each),
    )
    assert refused.error.args[0] == "-1 is negative"
    assert later is None
    assert [reply.request_id for reply in handed_over] == [""]
    assert told[0][0].request_id == ""
