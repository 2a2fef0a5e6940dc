# SPDX-License-Identifier: Apache-2.0
"""What either wire tells queues of a request; nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton.protocol.text import text_tensor
from flagtriton.transport.base import InferRequest, queue_time_us
from flagtriton.transport.connect import connect

both_wires = pytest.mark.parametrize("wire", ["grpc", "http"])


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keep what either of tritonclient's clients is asked for; return those arguments, a request each."""
    requests: list[dict[str, Any]] = []

    class Result:
        def as_numpy(self, _: str) -> None:
            return None

    def infer(_: object, *args: Any, **named: Any) -> Result:
        requests.append(named)
        return Result()

    for wire in ("grpc", "http"):
        monkeypatch.setattr(f"tritonclient.{wire}.InferenceServerClient.infer", infer)
    return requests


def ask(wire: str, parameters: dict[str, Any], left_s: float | None = None, **options: Any) -> None:
    transport = connect(f"{wire}://127.0.0.1:1", **options)
    transport.infer(InferRequest("m", {"text": text_tensor(["a"])}, ["dense_vecs"], parameters, left_s))
    transport.close()


@pytest.mark.parametrize(("seconds", "microseconds"), [(60, 60_000_000), (2.5, 2_500_000), (0.0015, 1_500)])
def test_triton_is_told_whole_microseconds(seconds: float, microseconds: int) -> None:
    timeout = queue_time_us(seconds)
    assert (timeout, type(timeout)) == (microseconds, int)


@both_wires
@pytest.mark.parametrize(("left_s", "waits_s"), [(None, 2.5), (9.0, 2.5), (0.75, 0.75)])
def test_a_request_may_wait_in_a_queue_as_long_as_its_client_waits_for_it(
    wire: str, left_s: float | None, waits_s: float, handed_over: list[dict[str, Any]]
) -> None:
    ask(wire, {}, left_s, timeout_s=2.5)
    (named,) = handed_over
    assert named["timeout"] == int(waits_s * 1e6)
    if wire == "grpc":
        assert named["client_timeout"] == waits_s
