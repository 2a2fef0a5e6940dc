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
from flagtriton.transport import channels, connect
from tests.network import speaking


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


def test_a_child_of_a_process_with_a_call_under_way_is_told_at_once(
    silent_port: tuple[int, list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_CALLS_END_S", 0.05)
    port, kept = silent_port
    transport = connect(f"grpc://127.0.0.1:{port}", timeout_s=2)

    def call() -> None:
        with pytest.raises(errors.FlagTritonError):
            transport.model_config("m")

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: kept)
    child = os.fork()
    if not child:
        began = time.monotonic()
        try:
            transport.model_config("m")
        except errors.ForkedProcessError as error:
            os._exit(0 if time.monotonic() - began < 1 and "http://" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    transport.close()
