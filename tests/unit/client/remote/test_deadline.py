# SPDX-License-Identifier: Apache-2.0
"""`timeout_s`: one deadline for all requests of a call and for their retries."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagModel, RequestTimeoutError, ServerUnavailableError
from flagtriton.protocol.text import text_tensor
from flagtriton.remote.deadline import Deadline
from flagtriton.remote.retries import RetryPolicy
from flagtriton.transport.base import InferRequest
from flagtriton.transport.connect import connect
from flagtriton.transport.fake import FakeTransport, Request
from tests.support.fake_models import NAME, fake_server

REPLY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def embedder(answer: Any, **settings: Any) -> tuple[FlagModel, FakeTransport]:
    transport = fake_server(answer)
    return FlagModel(NAME, transport=transport, batch_size=1, show_progress=False, **settings), transport


def vectors(request: Request) -> dict[str, Any]:
    return {"dense_vecs": np.ones((len(request.inputs["text"]), 4), np.float32)}


def test_without_a_deadline_requests_have_the_transports_own_time() -> None:
    model, transport = embedder(vectors)
    model.encode(["a", "b"])
    assert [request.timeout_s for request in transport.requests] == [None, None]


def test_later_requests_have_what_earlier_ones_left() -> None:
    def slow(request: Request) -> dict[str, Any]:
        time.sleep(0.05)
        return vectors(request)

    model, transport = embedder(slow, timeout_s=5.0, concurrency=1)
    model.encode(["a", "b", "c"])
    left = [request.timeout_s for request in transport.requests]
    assert left == sorted(left, reverse=True)
    assert 4.5 < left[0] <= 5.0
    assert left[0] - left[2] >= 0.1


def test_a_call_that_is_not_done_in_time_sends_no_more() -> None:
    def slow(request: Request) -> dict[str, Any]:
        time.sleep(0.1)
        return vectors(request)

    model, transport = embedder(slow, timeout_s=0.25, concurrency=1)
    with pytest.raises(RequestTimeoutError, match="not done within timeout_s; allow more, or send less"):
        model.encode([str(number) for number in range(50)])
    assert 2 <= len(transport.requests) <= 4


def test_each_call_has_its_own_deadline() -> None:
    def slow(request: Request) -> dict[str, Any]:
        time.sleep(0.06)
        return vectors(request)

    model, _ = embedder(slow, timeout_s=0.15, concurrency=1)
    for _ in range(4):
        assert model.encode(["a"]).shape == (1, 4)


def test_no_wait_for_a_retry_goes_beyond_the_deadline() -> None:
    def busy(request: Request) -> dict[str, Any]:
        raise ServerUnavailableError("busy")

    model, _ = embedder(busy, timeout_s=0.3, retries=1000)
    start = time.monotonic()
    with pytest.raises((ServerUnavailableError, RequestTimeoutError)):
        model.encode("a")
    assert time.monotonic() - start < 0.4


def test_a_deadline_in_the_past_lets_nothing_be_tried() -> None:
    tried = []
    with pytest.raises(RequestTimeoutError):
        RetryPolicy(retries=5).call(lambda: tried.append(1), deadline=Deadline(time.monotonic() - 1))
    assert tried == []


@pytest.mark.parametrize("bad", [{"timeout_s": 0}, {"timeout_s": -1.0}, {"request_timeout_s": 0}])
def test_times_below_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        embedder(vectors, **bad)


@contextmanager
def silent_server() -> Iterator[tuple[str, list[socket.socket]]]:
    """Yield the address of a server that takes connections and answers all but the first."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                if len(taken) > 1:
                    connection.recv(65_536)
                    connection.sendall(REPLY)

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
        listener.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


def test_over_http_a_request_is_cut_short_and_its_connection_given_up() -> None:
    with silent_server() as (url, taken):
        transport = connect(url, timeout_s=30)
        request = InferRequest("m", {"text": text_tensor(["a"])}, ["dense_vecs"], {})
        start = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=r"no answer within 0\.2 s"):
            transport.infer(replace(request, timeout_s=0.2))
        assert 0.15 < time.monotonic() - start < 5
        with pytest.raises(ServerUnavailableError):  # what the second connection is told
            transport.infer(replace(request, timeout_s=10))
        assert len(taken) > 1  # the SDK may have asked on one of its own which protocol is spoken
        transport.close()
