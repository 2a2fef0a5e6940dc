# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.transport.balanced`: several servers as one, and the URLs that make it."""

from __future__ import annotations

import pickle
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagModel
from flagtriton.errors import (
    DeploymentMismatchError,
    DeploymentWarning,
    InvalidRequestError,
    ModelNotServedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flagtriton.transport import balanced
from flagtriton.transport.balanced import BalancedTransport
from flagtriton.transport.base import InferRequest, ServerAddress
from flagtriton.transport.connect import connect
from flagtriton.transport.fake import FakeTransport, Request
from flagtriton.transport.grpc import GrpcTransport
from flagtriton.transport.http import HttpTransport
from tests.support.fake_models import NAME, answer_with_bytes, model_config

INPUTS = {"text": np.array([[b"a text"]], dtype=object)}


class Farm:
    """Servers that can be told to fail, by address."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.servers: dict[str, FakeTransport] = {}
        self.fails: dict[str, Exception] = {}
        self.config = model_config()
        self.configs: dict[str, Any] = {}

    def open(self, address: str) -> FakeTransport:
        def answer(request: Request) -> Any:
            if address in self.fails:
                raise self.fails[address]
            return answer_with_bytes(request)

        served = {NAME: self.configs.get(address, self.config)}
        self.servers[address] = FakeTransport(answer, served, address=address)
        return self.servers[address]

    def transport(self) -> BalancedTransport:
        return BalancedTransport(self.open, lambda: list(self.addresses))

    @property
    def counts(self) -> dict[str, int]:
        return {address: len(server.requests) for address, server in self.servers.items()}


def infer(transport: BalancedTransport, **more: Any) -> Any:
    return transport.infer(InferRequest(NAME, INPUTS, ["dense_vecs"], {}, **more))


# Requests.


def test_requests_are_spread_and_answered() -> None:
    farm = Farm("a", "b", "c")
    transport = farm.transport()
    answers = [infer(transport)["dense_vecs"].tolist() for _ in range(30)]
    assert all(answer == answers[0] for answer in answers)
    assert farm.counts == {"a": 10, "b": 10, "c": 10}


def test_the_size_of_requests_counts_not_their_number() -> None:
    farm = Farm("a", "b")
    gate = threading.Event()
    transport = farm.transport()
    infer(transport), infer(transport)  # both have been asked what they serve
    before = farm.counts

    def slowly(request: Request) -> Any:
        assert gate.wait(30)
        return answer_with_bytes(request)

    for server in farm.servers.values():
        server.answer = slowly
    long = {"text": np.array([[b"x" * 100_000]], dtype=object)}
    threads = [threading.Thread(target=transport.infer, args=(InferRequest(NAME, long, ["dense_vecs"], {}),))]
    threads += [threading.Thread(target=infer, args=(transport,)) for _ in range(20)]
    for number, each in enumerate(threads):
        each.start()
        while sum(farm.counts.values()) < sum(before.values()) + number + 1:
            pass
    grown = sorted(farm.counts[address] - before[address] for address in "ab")
    gate.set()
    for each in threads:
        each.join()
    assert grown == [1, 20]


def test_a_refused_request_goes_to_the_next_server_at_once() -> None:
    farm = Farm("a", "b", "c")
    farm.fails = {"a": ServerUnavailableError("no connection"), "b": ServerUnavailableError("its queue is full")}
    transport = farm.transport()
    for _ in range(10):
        assert infer(transport)["dense_vecs"].shape == (1, 4)
    assert farm.counts["c"] == 10
    assert farm.counts["a"] <= 2  # it rests
    assert farm.counts["b"] <= 2


def test_where_no_server_takes_it_the_caller_gets_the_refusal() -> None:
    farm = Farm("a", "b")
    farm.fails = dict.fromkeys("ab", ServerUnavailableError("its queue is full"))
    with pytest.raises(ServerUnavailableError, match="its queue is full"):
        infer(farm.transport())
    assert farm.counts == {"a": 1, "b": 1}


def test_a_server_that_is_back_gets_its_share_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("flagtriton.transport.endpoints.time", SimpleNamespace(monotonic=lambda: clock.now))
    farm = Farm("a", "b")
    farm.fails = {"a": ServerUnavailableError("no connection")}
    transport = farm.transport()
    for _ in range(10):
        infer(transport)
    farm.fails = {}
    clock.now += 60
    before = farm.counts
    for _ in range(10):
        infer(transport)
    assert {address: farm.counts[address] - before[address] for address in "ab"} == {"a": 5, "b": 5}


def test_bad_input_is_told_by_the_first_server_and_asked_of_no_other() -> None:
    farm = Farm("a", "b")
    farm.fails = dict.fromkeys("ab", InvalidRequestError("bad"))
    transport = farm.transport()
    for _ in range(4):
        with pytest.raises(InvalidRequestError, match="bad"):
            infer(transport)
    assert farm.counts == {"a": 2, "b": 2}  # and none of them rests


def test_one_that_does_not_answer_rests_and_the_caller_is_told() -> None:
    farm = Farm("a", "b")
    farm.fails = {"a": RequestTimeoutError("late"), "b": RequestTimeoutError("late")}
    transport = farm.transport()
    with pytest.raises(RequestTimeoutError):
        infer(transport)
    assert sum(farm.counts.values()) == 1
    farm.fails = {}
    assert infer(transport)
    assert sorted(farm.counts.values()) == [1, 1]


def test_what_is_left_of_the_time_is_told_to_each_server() -> None:
    farm = Farm("a", "b")
    farm.fails = {"a": ServerUnavailableError("no"), "b": ServerUnavailableError("no")}
    with pytest.raises(ServerUnavailableError):
        infer(farm.transport(), timeout_s=5.0)
    for server in farm.servers.values():
        (request,) = server.requests
        assert request.timeout_s is not None
        assert 4 < request.timeout_s <= 5.0


# What is served.


def test_a_model_that_one_server_lacks_is_asked_of_the_others() -> None:
    farm = Farm("a", "b")
    transport = farm.transport()
    farm.servers["a"].configs = {}
    assert transport.model_config(NAME) == transport.model_config(NAME) == farm.config
    assert [infer(transport)["dense_vecs"].shape for _ in range(3)] == [(1, 4)] * 3
    farm.servers["b"].configs = {}
    with pytest.raises(ModelNotServedError):
        transport.model_config(NAME)


def test_a_server_with_another_model_under_the_name_gets_nothing_and_that_is_said() -> None:
    farm = Farm("a", "b")
    farm.configs["b"] = replace(farm.config, parameters={**farm.config.parameters, "revision": "other"})
    transport = farm.transport()
    assert transport.model_config(NAME) == farm.config  # a's turn comes first
    with pytest.warns(
        DeploymentWarning, match="b serves another .* revision is 'other', not None; it gets no requests"
    ):
        for _ in range(6):
            infer(transport)
    assert farm.counts == {"a": 6, "b": 0}


def test_a_server_is_compared_anew_after_it_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagtriton.transport.endpoints._FIRST_BACKOFF_S", 0.0)
    farm = Farm("a")
    transport = farm.transport()
    assert transport.model_config(NAME)
    assert infer(transport)
    farm.fails = {"a": ServerUnavailableError("away")}
    with pytest.raises(ServerUnavailableError):
        infer(transport)
    farm.fails = {}
    farm.servers["a"].configs = {NAME: replace(farm.config, parameters={**farm.config.parameters, "revision": "new"})}
    with pytest.raises(DeploymentMismatchError, match="revision is 'new', not None"):
        infer(transport)


# Servers that come and go.


def test_servers_are_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(balanced, "time", SimpleNamespace(monotonic=lambda: clock.now))
    farm = Farm("a")
    transport = farm.transport()
    infer(transport)
    farm.addresses = ["b", "c"]
    infer(transport)
    assert farm.counts == {"a": 2}
    clock.now += 10
    for _ in range(4):
        infer(transport)
    assert farm.counts == {"a": 2, "b": 2, "c": 2}
    assert farm.servers["a"].closed
    assert transport.address == "b, c"


@pytest.mark.parametrize("found", [OSError("no such name"), []])
def test_those_that_are_known_will_do_where_none_is_found(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm("a")
    transport = farm.transport()
    monkeypatch.setattr(transport, "_next_lookup_at", 0.0)

    def lookup() -> list[str]:
        if isinstance(found, OSError):
            raise found
        return list(found)

    monkeypatch.setattr(transport, "_lookup", lookup)
    assert infer(transport)
    assert transport.address == "a"


def test_closing_closes_all() -> None:
    farm = Farm("a", "b")
    farm.transport().close()
    assert [server.closed for server in farm.servers.values()] == [True, True]


# URLs.


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def resolve(*hosts: str) -> None:
        def looked_up(name: str, port: int, **_: Any) -> list[Any]:
            if not hosts:
                raise socket.gaierror("Name or service not known")
            return [(None, None, None, "", (host, port)) for host in hosts]

        monkeypatch.setattr(socket, "getaddrinfo", looked_up)

    return resolve


@pytest.mark.parametrize("url", ["grpc://a:1", ["grpc://a:1"], ("grpc://a:1",)])
def test_one_url_is_one_server(url: Any) -> None:
    transport = connect(url)
    assert isinstance(transport, GrpcTransport)
    assert transport.address == "grpc://a:1"


@pytest.mark.parametrize("url", [["grpc://a:1", "http://b:2"], "grpc://a:1,http://b:2", "grpc://a:1, http://b:2"])
def test_several_urls_are_balanced(url: Any) -> None:
    transport = connect(url)
    assert isinstance(transport, BalancedTransport)
    assert transport.address == "grpc://a:1, http://b:2"
    transport.close()


def test_the_environment_may_name_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGTRITON_URL", "grpc://a:1,grpc://b:1")
    assert connect().address == "grpc://a:1, grpc://b:1"


def test_a_name_with_dns_is_all_servers_that_it_stands_for(resolved: Callable[..., None]) -> None:
    resolved("10.0.0.2", "10.0.0.1", "10.0.0.2", "fd00::1")
    assert (
        connect("dns+grpc://triton:8001").address == "grpc://10.0.0.1:8001, grpc://10.0.0.2:8001, grpc://[fd00::1]:8001"
    )
    assert connect("dns+http://triton/below").address == (
        "http://10.0.0.1:8000/below, http://10.0.0.2:8000/below, http://[fd00::1]:8000/below"
    )


def test_a_certificate_bears_the_name_that_was_looked_up(
    resolved: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[ServerAddress] = []
    made = GrpcTransport.__init__

    def noted(self: GrpcTransport, address: ServerAddress, *more: Any) -> None:
        given.append(address)
        made(self, address, *more)

    monkeypatch.setattr(GrpcTransport, "__init__", noted)
    resolved("10.0.0.1")
    transport = connect("dns+grpcs://triton.example:8001")
    assert (str(given[0]), given[0].name) == ("grpcs://10.0.0.1:8001", "triton.example")
    assert transport.address == "grpcs://10.0.0.1:8001"


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("dns+https://a", ValueError, "over https send to the name itself"),
        ("grpc://a:1,tcp://b", ValueError, "expected grpc://host:port"),
        ([], ValueError, "expected grpc|empty"),
        ([1], TypeError, "expected a str or a list of them"),
        ({"grpc://a:1"}, TypeError, "expected a str or a list of them"),
    ],
)
def test_other_urls_are_refused(
    url: Any, error: type[Exception], words: str, resolved: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGTRITON_URL", "tcp://")
    resolved("10.0.0.1")
    with pytest.raises(error, match=words):
        connect(url)


def test_a_name_that_nobody_knows_is_a_server_that_is_away(resolved: Callable[..., None]) -> None:
    resolved()
    with pytest.raises(ServerUnavailableError, match="dns\\+grpc://triton: Name or service not known"):
        connect("dns+grpc://triton")


def test_a_copy_has_connections_of_its_own() -> None:
    transport = connect(["grpc://a:1", "http://b:2"], headers={"x": "y"}, timeout_s=7)
    copy = pickle.loads(pickle.dumps(transport))
    assert copy.address == transport.address
    first, second = (endpoint.transport for endpoint in copy._endpoints.all)
    assert isinstance(first, GrpcTransport)
    assert isinstance(second, HttpTransport)
    assert (first._timeout_s, second._headers) == (7, {"x": "y"})


# The SDK.


def test_a_call_loses_nothing_while_servers_fail_and_come_back() -> None:
    farm = Farm("a", "b", "c")
    transport = farm.transport()
    model = FlagModel(NAME, transport=transport, concurrency=8)
    texts = [f"text {number}" for number in range(400)]
    alone = model.encode(texts, batch_size=4)
    answers = Counter[str]()

    def unsteady(address: str) -> Callable[[Request], Any]:
        def answer(request: Request) -> Any:
            answers[address] += 1
            if answers[address] % 7 < 3:
                raise ServerUnavailableError("away")
            return answer_with_bytes(request)

        return answer

    for address, server in farm.servers.items():
        server.answer = unsteady(address)
    assert np.array_equal(model.encode(texts, batch_size=4), alone)
