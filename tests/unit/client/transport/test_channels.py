# SPDX-License-Identifier: Apache-2.0
"""gRPC channels: one that went silent is replaced, and a child that cannot use gRPC is told so at once."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from flagtriton import errors
from flagtriton.transport import channels
from flagtriton.transport.connect import connect
from tests.support.servers.network import speaking


@pytest.fixture
def silent_port() -> Iterator[tuple[int, list[socket.socket]]]:
    """Yield the port of a server that takes connections, says nothing, and keeps them; and those."""
    kept: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        kept.append(connection.dup())

    with speaking(talk) as port:
        yield port, kept
    for connection in kept:
        connection.close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def test_each_try_after_a_time_out_is_on_a_connection_of_its_own(
    silent_port: tuple[int, list[socket.socket]],
) -> None:
    port, kept = silent_port
    transport = connect(f"grpc://127.0.0.1:{port}", timeout_s=0.3)
    transport._has_answered = True  # type: ignore[attr-defined] - so that nothing is diagnosed
    for tries in (1, 2, 3):
        with pytest.raises(errors.RequestTimeoutError):
            transport.model_config("m")
        assert len(kept) == tries
    transport.close()


def test_a_call_that_outlasts_a_fork_is_sent_again_and_the_child_can_call(
    silent_port: tuple[int, list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_DRAIN_S", 0.05)
    port, kept = silent_port
    transport = connect(f"grpc://127.0.0.1:{port}", timeout_s=2)
    raised: list[Exception] = []

    def call() -> None:
        with pytest.raises(errors.FlagTritonError) as caught:
            transport.model_config("m")
        raised.append(caught.value)

    thread = threading.Thread(target=call)
    began = time.monotonic()
    thread.start()
    wait_for(lambda: kept)
    child = os.fork()
    if not child:
        try:
            transport.model_config("m")
        except errors.RequestTimeoutError:
            os._exit(0)
        os._exit(1)
    thread.join()
    took_s = time.monotonic() - began
    assert os.waitpid(child, 0)[1] == 0
    assert type(raised[0]) is errors.RequestTimeoutError
    assert took_s < 3  # the deadline of 2 s is that of both tries together
    assert len(kept) == 3  # the call's first try, its second, and the child's
    transport.close()
