# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.session.drain`, with a server that has no process and a clock that stands still."""

from __future__ import annotations

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.serve import session as serving
from flagtriton_tools.serve.session import drain
from flagtriton_tools.tritonserver.admin import ModelState
from tests.support.fake_triton import FakeAdmin, FakeClock, FakeTriton, deployment


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(serving, "time", clock)
    return clock


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton().serve(deployment("plain"), deployment("m3", "encoder-only-m3"))


@pytest.fixture
def admin(triton: FakeTriton) -> FakeAdmin:
    return FakeAdmin(triton=triton)


def test_ensembles_are_unloaded_and_their_steps_go_on(admin: FakeAdmin, triton: FakeTriton) -> None:
    assert drain(admin, ["m3", "m3_score", "plain"], 25) is True
    assert sorted(triton.calls) == ["unload m3", "unload m3_score", "unload plain"]


def test_requests_in_flight_are_waited_for(admin: FakeAdmin, triton: FakeTriton, clock: FakeClock) -> None:
    triton.unloading_polls = {"m3": 30, "plain": 100}
    assert drain(admin, ["m3", "plain"], 25) is True
    assert 5.0 <= clock.now - 1000 <= 5.2  # a hundred looks, twenty a second
    assert triton.states["plain"] == ModelState("plain", "UNAVAILABLE", "unloaded")


def test_after_the_grace_period_no_more_is_waited(admin: FakeAdmin, triton: FakeTriton, clock: FakeClock) -> None:
    triton.unloading_polls = {"m3": 10_000}
    assert drain(admin, ["m3", "plain"], 2.5) is False
    assert 2.5 <= clock.now - 1000 <= 2.6


def test_without_a_grace_period_requests_are_refused_but_not_waited_for(admin: FakeAdmin, triton: FakeTriton) -> None:
    triton.unloading_polls = {"plain": 1}
    assert drain(admin, ["plain"], 0) is False
    assert triton.calls == ["unload plain"]


def test_a_server_that_ends_meanwhile_has_not_answered_all(
    admin: FakeAdmin, triton: FakeTriton, clock: FakeClock
) -> None:
    triton.unloading_polls = {"plain": 1000}
    clock.at(1, lambda: setattr(triton, "answers", False))
    assert drain(admin, ["plain"], 25) is False
    assert clock.now - 1000 <= 1.1


def test_where_nothing_is_served_there_is_nothing_to_drain(admin: FakeAdmin, clock: FakeClock) -> None:
    assert drain(admin, [], 25) is True
    assert clock.slept == []


def test_an_ensemble_that_is_not_loaded_does_not_keep_the_others_from_being_drained(
    admin: FakeAdmin, triton: FakeTriton
) -> None:
    class Refusing(FakeAdmin):
        def unload(self, name: str) -> None:
            if name == "gone":
                raise ToolError("http://triton:8000: failed to unload 'gone'")
            super().unload(name)

    drain(Refusing(triton=triton), ["gone", "plain"], 25)
    drain(Refusing(triton=triton), ["plain", "gone"], 25)  # whichever comes first in a set
    assert triton.calls == ["unload plain", "unload plain"]
