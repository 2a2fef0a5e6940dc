# SPDX-License-Identifier: Apache-2.0
"""`backend.requests` and `backend.responses`, with a stand-in for the module that exists only inside Triton's stub."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.tensors import DENSE_VECS, TEXT, TOKEN_COUNT
from flagtriton_server.errors import RequestError


@dataclass
class FakeTensor:
    """`pb_utils.Tensor`."""

    name: str
    values: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        return self.values


@dataclass
class FakeError:
    """`pb_utils.TritonError`."""

    message: str
    code: str

    INVALID_ARG = "invalid argument"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"


@dataclass
class FakeResponse:
    """`pb_utils.InferenceResponse`."""

    tensors: list[FakeTensor] = field(default_factory=list)
    error: FakeError | None = None


@dataclass
class FakeRequest:
    """`pb_utils.InferenceRequest`."""

    rows: list[Any]
    sent: str = ""
    cancelled: bool = False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def parameters(self) -> str:
        return self.sent

    def request_id(self) -> str:
        return ""

    def timeout(self) -> int:
        return 0


class FakeLogger:
    """`pb_utils.Logger`."""

    lines: list[str]

    @classmethod
    def log_info(cls, line: str) -> None:
        cls.lines.append(line)


def _text_tensor(request: FakeRequest, name: str) -> FakeTensor:
    assert name == TEXT.name
    return FakeTensor(name, np.array(request.rows, dtype=object).reshape(-1, 1))


MODULES = tuple(f"flagtriton_server.backend.{name}" for name in ("requests", "responses", "server_log"))


@pytest.fixture
def triton_io(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    backend = ModuleType("triton_python_backend_utils")
    FakeLogger.lines = []
    for name, value in {
        "Tensor": FakeTensor,
        "TritonError": FakeError,
        "InferenceResponse": FakeResponse,
        "Logger": FakeLogger,
        "get_input_tensor_by_name": _text_tensor,
    }.items():
        setattr(backend, name, value)
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    for module in MODULES:
        sys.modules.pop(module, None)
    requests, responses, server_log = (importlib.import_module(module) for module in MODULES)
    yield SimpleNamespace(respond=responses.respond, open=requests.StepRequest.of, log_info=server_log.log_info)
    for module in MODULES:
        sys.modules.pop(module, None)


def number(request: Any) -> int:
    """Return the request's one number; a stand-in for a step's `_read`."""
    (value,) = request.pb_request.rows
    if value < 0:
        raise RequestError(f"{value} is negative")
    return value


def doubled(numbers: list[int]) -> list[dict[Any, NDArray[np.int32]]]:
    return [{TOKEN_COUNT: np.array([[2 * value]], dtype=np.int32)} for value in numbers]


def outcomes(responses: list[FakeResponse]) -> list[Any]:
    return [each.error or [tensor.values.tolist() for tensor in each.tensors] for each in responses]


def test_each_request_gets_its_own_answer_in_order(triton_io: Any) -> None:
    responses = triton_io.respond([FakeRequest([1]), FakeRequest([2])], number, doubled)
    assert outcomes(responses) == [[[[2]]], [[[4]]]]


def test_outputs_carry_the_names_of_the_contract(triton_io: Any) -> None:
    answer = {TOKEN_COUNT: np.zeros((1, 1), np.int32), DENSE_VECS: np.zeros((1, 3), np.float32)}
    (response,) = triton_io.respond([FakeRequest([1])], number, lambda _: [answer])
    assert [tensor.name for tensor in response.tensors] == ["token_count", "dense_vecs"]


def test_outputs_are_contiguous(triton_io: Any) -> None:
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    (response,) = triton_io.respond([FakeRequest([1])], number, lambda _: [{DENSE_VECS: turned}])
    assert response.tensors[0].values.flags.c_contiguous
    assert response.tensors[0].values.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_bad_request_fails_alone(triton_io: Any) -> None:
    requests = [FakeRequest([1]), FakeRequest([-5]), FakeRequest([3])]
    refused = FakeError("-5 is negative", FakeError.INVALID_ARG)
    assert outcomes(triton_io.respond(requests, number, doubled)) == [[[[2]]], refused, [[[6]]]]


def test_a_bad_option_fails_its_request_as_an_invalid_argument(triton_io: Any) -> None:
    def read(_: FakeRequest) -> int:
        raise OptionError("unknown option 'x'")

    (response,) = triton_io.respond([FakeRequest([1])], read, doubled)
    assert response.error == FakeError("unknown option 'x'", FakeError.INVALID_ARG)


def test_work_may_refuse_one_request_of_many(triton_io: Any) -> None:
    def run(numbers: list[int]) -> list[Any]:
        return [doubled([numbers[0]])[0], RequestError("too long")]

    responses = triton_io.respond([FakeRequest([1]), FakeRequest([2])], number, run)
    assert outcomes(responses) == [[[[2]]], FakeError("too long", FakeError.INVALID_ARG)]


def test_an_error_fits_into_a_header(triton_io: Any) -> None:
    def refuse(_: object) -> None:
        raise RequestError("x" * 20_000)

    (response,) = triton_io.respond([FakeRequest([1])], refuse, lambda work: [])
    assert response.error.message.startswith("xxx")
    assert 1_000 < len(response.error.message) < 4_000


def test_an_error_keeps_the_code_it_names(triton_io: Any) -> None:
    (response,) = triton_io.respond([FakeRequest([1])], number, lambda _: [RequestError("later", "UNAVAILABLE")])
    assert response.error == FakeError("later", FakeError.UNAVAILABLE)


def test_a_cancelled_request_is_answered_without_being_read(triton_io: Any) -> None:
    read: list[int] = []

    def note(request: Any) -> int:
        read.append(number(request))
        return read[-1]

    requests = [FakeRequest([1], cancelled=True), FakeRequest([2])]
    first, second = outcomes(triton_io.respond(requests, note, doubled))
    assert first.code == FakeError.CANCELLED
    assert second == [[[4]]]
    assert read == [2]


def test_nothing_is_run_where_no_request_could_be_read(triton_io: Any) -> None:
    def run(_: list[int]) -> list[Any]:
        raise AssertionError("there was nothing to run")

    responses = triton_io.respond([FakeRequest([-1]), FakeRequest([1], cancelled=True)], number, run)
    assert [response.error.code for response in responses] == [FakeError.INVALID_ARG, FakeError.CANCELLED]


def test_an_error_of_the_step_itself_is_not_hidden(triton_io: Any) -> None:
    def run(_: list[int]) -> list[Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        triton_io.respond([FakeRequest([1])], number, run)


def texts(triton_io: Any, rows: list[bytes], max_total_bytes: int = 1000) -> list[str]:
    return triton_io.open(FakeRequest(rows)).texts(TEXT, max_total_bytes=max_total_bytes)


def test_texts_are_decoded_from_utf8(triton_io: Any) -> None:
    assert texts(triton_io, ["naïve".encode(), "人工".encode(), b""]) == ["naïve", "人工", ""]


def test_texts_may_have_as_many_bytes_together_as_the_model_takes(triton_io: Any) -> None:
    assert texts(triton_io, [b"abc", b"", b"de"], max_total_bytes=5) == ["abc", "", "de"]


def test_more_bytes_together_are_refused_with_what_is_to_be_done(triton_io: Any) -> None:
    with pytest.raises(RequestError) as refused:
        texts(triton_io, [b"abc", b"def"], max_total_bytes=5)
    assert str(refused.value) == ("text has 6 bytes in all; this model takes 5: send fewer texts in each request")


def test_one_text_of_more_bytes_than_a_request_may_have_is_named(triton_io: Any) -> None:
    with pytest.raises(RequestError) as refused:
        texts(triton_io, [b"abc", b"defghi"], max_total_bytes=5)
    assert str(refused.value) == (
        "text 1 has 6 bytes; this model takes 5 in one request: cut it, or deploy the model with a greater "
        "--max-request-bytes"
    )


def test_no_texts_are_not_too_long(triton_io: Any) -> None:
    assert texts(triton_io, [], max_total_bytes=1) == []


def test_what_is_too_long_is_not_decoded(triton_io: Any) -> None:
    with pytest.raises(RequestError, match="has 7 bytes"):
        texts(triton_io, [b"\xff" * 7], max_total_bytes=6)


def test_invalid_utf8_names_its_row_byte_and_position(triton_io: Any) -> None:
    with pytest.raises(RequestError, match=r"text 1 is not valid UTF-8: byte 0xff at position 2; send UTF-8"):
        texts(triton_io, [b"good", b"ab\xff"])


def test_invalid_utf8_fails_its_request_alone(triton_io: Any) -> None:
    requests = [FakeRequest([b"\xff"]), FakeRequest([b"abc"])]
    responses = triton_io.respond(requests, lambda r: len(r.texts(TEXT, max_total_bytes=1000)[0]), doubled)
    assert responses[0].error.code == FakeError.INVALID_ARG
    assert outcomes(responses)[1] == [[[6]]]


def test_options_keep_the_types_they_were_sent_with(triton_io: Any) -> None:
    sent = {"max_length": 8, "normalize": False, "input_type": "query"}
    assert triton_io.open(FakeRequest([], json.dumps(sent))).context.options == sent


@pytest.mark.parametrize("sent", ["", "{}"])
def test_a_request_without_parameters_has_no_options(triton_io: Any, sent: str) -> None:
    assert triton_io.open(FakeRequest([], sent)).context.options == {}


def test_a_log_line_says_whose_it_is(triton_io: Any) -> None:
    triton_io.log_info("loaded")
    assert FakeLogger.lines == ["[flagtriton] loaded"]
