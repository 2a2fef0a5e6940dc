# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.transport.endpoints`: which of several servers gets the next request."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from flagtriton.transport import endpoints as module
from flagtriton.transport.endpoints import Endpoint, Endpoints
from flagtriton.transport.fake import FakeTransport


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(module.random, "uniform", lambda low, high: low)
    return made


def opened(address: str) -> FakeTransport:
    return FakeTransport(lambda _: {}, {}, address=address)


def endpoints(names: str = "abc") -> Endpoints:
    return Endpoints(opened, list(names))


def chosen(servers: Endpoints, work: int = 1, *exclude: Endpoint) -> str | None:
    with servers.acquire(work, exclude) as endpoint:
        return None if endpoint is None else endpoint.address


def named(servers: Endpoints, address: str) -> Endpoint:
    return next(endpoint for endpoint in servers.all if endpoint.address == address)


def test_without_a_server_nothing_can_be_sent() -> None:
    with pytest.raises(ValueError, match="no server"):
        endpoints("")


def test_idle_servers_take_turns() -> None:
    servers = endpoints()
    assert Counter(chosen(servers) for _ in range(30)) == {"a": 10, "b": 10, "c": 10}


def test_a_request_goes_where_the_least_work_is_in_flight() -> None:
    servers = endpoints()
    with ExitStack() as stack:
        first = stack.enter_context(servers.acquire(100))
        second = stack.enter_context(servers.acquire(10))
        assert first is not None
        assert second is not None
        (third,) = {"a", "b", "c"} - {first.address, second.address}
        assert chosen(servers, 1) == third
        with servers.acquire(20):  # the third has the second least now
            assert chosen(servers, 1) == second.address


def test_what_is_answered_is_no_longer_in_flight_whatever_came_of_it() -> None:
    servers = endpoints()
    with pytest.raises(RuntimeError), servers.acquire(10):
        raise RuntimeError
    assert [(endpoint.in_flight, endpoint.requests) for endpoint in servers.all] == [(0, 0)] * 3


def test_each_server_is_offered_once() -> None:
    servers = endpoints()
    had = list(servers.all[:2])
    assert chosen(servers, 1, *had) == "c"
    assert chosen(servers, 1, *servers.all) is None


def test_one_that_fails_rests_longer_each_time_up_to_three_seconds(clock: SimpleNamespace) -> None:
    servers = endpoints("ab")
    a = named(servers, "a")
    rests = []
    for _ in range(8):
        servers.failed(a)
        servers.failed(a)  # noticed by two requests at once
        rests.append(a.backoff_until - clock.now)
        clock.now = a.backoff_until
    assert rests == [0.25, 0.5, 1, 2, 3, 3, 3, 3]


def test_one_that_rests_gets_nothing(clock: SimpleNamespace) -> None:
    servers = endpoints("ab")
    servers.failed(named(servers, "a"))
    assert {chosen(servers) for _ in range(10)} == {"b"}
    clock.now += 0.25
    assert "a" in {chosen(servers) for _ in range(10)}


def test_one_that_says_how_long_rests_so_long(clock: SimpleNamespace) -> None:
    servers = endpoints("ab")
    servers.failed(named(servers, "a"), 30.0)
    clock.now += 29
    assert {chosen(servers) for _ in range(10)} == {"b"}


def test_a_single_request_is_tried_on_one_that_comes_back(clock: SimpleNamespace) -> None:
    servers = endpoints("ab")
    a = named(servers, "a")
    servers.failed(a)
    clock.now += 1
    with ExitStack() as stack:
        got = [stack.enter_context(servers.acquire(1)) for _ in range(20)]
        assert Counter(e.address for e in got if e is not None) == {"a": 1, "b": 19}
        servers.answered(a)
    assert Counter(chosen(servers) for _ in range(10)) == {"a": 5, "b": 5}


def test_a_trial_that_ends_without_a_word_leaves_room_for_the_next(clock: SimpleNamespace) -> None:
    servers = endpoints("a")
    servers.failed(servers.all[0])
    clock.now += 1
    with pytest.raises(KeyboardInterrupt), servers.acquire(1):
        raise KeyboardInterrupt
    assert chosen(servers) == "a"


def test_where_all_rest_the_one_that_is_back_soonest_is_asked(clock: SimpleNamespace) -> None:
    servers = endpoints("abc")
    for address, seconds in (("a", 9.0), ("b", 3.0), ("c", 6.0)):
        servers.failed(named(servers, address), seconds)
    assert [chosen(servers) for _ in range(3)] == ["b", "b", "b"]


def test_servers_that_come_and_go(clock: SimpleNamespace) -> None:
    servers = endpoints("ab")
    a, b = servers.all
    servers.failed(b)
    with servers.acquire(5) as busy:
        assert busy is a
        servers.replace(["b", "c", "c"])
        assert [endpoint.address for endpoint in servers.all] == ["b", "c"]
        assert servers.all[0] is b
        assert b.failures == 1
        assert chosen(servers) == "c"
        assert not a.transport.closed  # type: ignore[attr-defined]
    assert a.transport.closed  # type: ignore[attr-defined]
    servers.replace(["c"])
    assert b.transport.closed  # type: ignore[attr-defined]


def test_threads_share_them() -> None:
    servers = endpoints()

    def ask() -> None:
        for _ in range(300):
            with servers.acquire(3) as endpoint:
                assert endpoint is not None
                servers.failed(endpoint) if endpoint.address == "a" else servers.answered(endpoint)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [(endpoint.in_flight, endpoint.requests) for endpoint in servers.all] == [(0, 0)] * 3
