# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.remote.retries`: what is tried again, after which waits, and until when."""

from __future__ import annotations

import threading
import time

import pytest

from flagtriton import errors
from flagtriton.errors import RequestTimeoutError, ServerUnavailableError
from flagtriton.remote.deadline import Deadline
from flagtriton.remote.retries import RetryPolicy


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the waiting; return the seconds, each drawn at its longest."""
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: seconds.append)
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    return seconds


class Flaky:
    """A function that raises `failure` at its first `times` calls."""

    def __init__(self, failure: Exception, times: int) -> None:
        self.failure = failure
        self.times = times
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.failure
        return "answer"


@pytest.mark.parametrize("kind", [ServerUnavailableError, RequestTimeoutError])
def test_what_may_pass_is_tried_again(kind: type[Exception], waits: list[float]) -> None:
    function = Flaky(kind("x"), times=2)
    assert RetryPolicy(retries=2).call(function) == "answer"
    assert function.calls == 3


NOT_RETRIED = [
    errors.InvalidRequestError,
    errors.ModelNotServedError,
    errors.AccessDeniedError,
    errors.DeploymentMismatchError,
    errors.ServerError,
    errors.MissingExtraError,
    ValueError,
    ConnectionError,
]


@pytest.mark.parametrize("kind", NOT_RETRIED)
def test_what_will_not_pass_is_not_tried_again(kind: type[Exception], waits: list[float]) -> None:
    function = Flaky(kind("x"), times=1)
    with pytest.raises(kind, match="x"):
        RetryPolicy(retries=2).call(function)
    assert (function.calls, waits) == (1, [])


def test_the_last_error_is_raised_itself(waits: list[float]) -> None:
    failure = ServerUnavailableError("busy")
    with pytest.raises(ServerUnavailableError) as caught:
        RetryPolicy(retries=1).call(Flaky(failure, times=9))
    assert caught.value is failure


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_there_is_one_try_more_than_retries(retries: int, waits: list[float]) -> None:
    function = Flaky(ServerUnavailableError("busy"), times=99)
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(retries=retries).call(function)
    assert (function.calls, len(waits)) == (retries + 1, retries)


def test_the_longest_waits_double_up_to_a_limit(waits: list[float]) -> None:
    RetryPolicy(retries=5, first_wait_s=1.0, longest_wait_s=5.0).call(Flaky(ServerUnavailableError("busy"), times=5))
    assert waits == [1, 2, 4, 5, 5]


def test_the_shortest_wait_is_none(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: least)
    RetryPolicy(retries=1).call(Flaky(ServerUnavailableError("busy"), times=1))
    assert waits == [0]


def busy(retry_after_s: float | None = None) -> ServerUnavailableError:
    error = ServerUnavailableError("busy")
    error.retry_after_s = retry_after_s
    return error


class Clock:
    """Time that goes on while somebody waits, and by `took` with every try."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.took = 0.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace waiting and the clock; every wait is drawn at its longest."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: clock.wait)
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    return clock


class Always:
    """A function that takes a time and fails, whenever it is called."""

    def __init__(self, clock: Clock, failure: Exception, took: float = 0.0) -> None:
        self.clock, self.failure, self.took = clock, failure, took
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.clock.now += self.took
        raise self.failure


# What the server asks for.


@pytest.mark.parametrize(("drawn", "expected"), [("least", 8.0), ("most", 10.0)])
def test_a_time_that_the_server_names_is_waited_and_a_quarter_more_at_most(
    drawn: str, expected: float, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: {"least": least, "most": most}[drawn])
    assert RetryPolicy().call(Flaky(busy(8.0), times=2)) == "answer"
    assert waits == [expected, expected]


def test_a_time_that_the_server_names_may_be_longer_than_the_longest_wait(waits: list[float]) -> None:
    RetryPolicy(longest_wait_s=1.0).call(Flaky(busy(40.0), times=1))
    assert waits == [50.0]


def test_a_time_that_one_answer_names_does_not_hold_for_the_next(waits: list[float]) -> None:
    failures = [busy(8.0), busy(), RequestTimeoutError("late")]

    def function() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    RetryPolicy(first_wait_s=1.0, longest_wait_s=60.0).call(function)
    assert waits == [10.0, 2.0, 4.0]  # the n-th wait goes by all tries before it


def test_a_time_that_would_end_after_all_patience_is_not_waited(clock: Clock) -> None:
    function = Always(clock, busy(300.0))
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(patience_s=300.0).call(function)
    assert (function.calls, clock.waits) == (1, [])


def test_a_time_that_would_end_after_the_deadline_is_not_waited(clock: Clock) -> None:
    function = Always(clock, busy(9.0))
    with pytest.raises(ServerUnavailableError):
        RetryPolicy().call(function, deadline=Deadline.after(10.0))  # 9 s and a quarter more
    assert (function.calls, clock.waits) == (1, [])


def test_a_server_that_names_no_time_at_all_is_not_asked_without_a_pause(clock: Clock) -> None:
    function = Always(clock, busy(0.0), took=0.001)
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(patience_s=1.0).call(function)
    assert function.calls < 100


# Until when.


def test_without_a_number_of_retries_it_is_tried_until_patience_ends(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(patience_s=60.0, first_wait_s=1.0, longest_wait_s=5.0).call(function)
    assert clock.waits == [1, 2, 4, *[5] * 10]  # 57 s, and one more wait would end after 60
    assert function.calls == 14


def test_the_time_that_tries_take_counts(clock: Clock) -> None:
    function = Always(clock, RequestTimeoutError("late"), took=20.0)
    with pytest.raises(RequestTimeoutError):
        RetryPolicy(patience_s=60.0, first_wait_s=1.0).call(function)
    assert function.calls == 3  # 20, 41 and 63 s after the beginning


def test_a_number_of_retries_holds_within_patience(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(retries=2, patience_s=60.0).call(function)
    assert function.calls == 3


def test_patience_holds_within_a_number_of_retries(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(retries=1000, patience_s=10.0, first_wait_s=4.0, longest_wait_s=4.0).call(function)
    assert (function.calls, clock.waits) == (3, [4, 4])


def test_the_deadline_of_a_call_goes_before_a_longer_patience(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(first_wait_s=4.0, longest_wait_s=4.0).call(function, deadline=Deadline.after(10.0))
    assert (function.calls, clock.waits) == (3, [4, 4])


def test_a_longer_deadline_lends_no_patience(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(patience_s=10.0, first_wait_s=4.0, longest_wait_s=4.0).call(function, deadline=Deadline.after(99.0))
    assert function.calls == 3


def test_without_patience_there_is_one_try(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(patience_s=0).call(function)
    assert (function.calls, clock.waits) == (1, [])


def test_a_million_tries_do_not_make_a_wait_longer_or_overflow(clock: Clock) -> None:
    function = Always(clock, busy())
    with pytest.raises(ServerUnavailableError):
        RetryPolicy(patience_s=10_000.0).call(function)
    assert max(clock.waits) == 5.0
    assert function.calls > 2_000


def test_by_default_waits_are_short_at_first_and_a_model_has_five_minutes(clock: Clock) -> None:
    with pytest.raises(ServerUnavailableError):
        RetryPolicy().call(Always(clock, busy()))
    assert clock.waits[:5] == [0.5, 1, 2, 4, 5]
    assert 290 < clock.now - 1000 < 300


# Stopped by others.


def test_once_the_event_is_set_no_try_follows() -> None:
    stopped = threading.Event()
    tries: list[int] = []

    def function() -> str:
        tries.append(1)
        stopped.set()
        raise busy(60.0)

    start = time.monotonic()
    with pytest.raises(ServerUnavailableError):
        RetryPolicy().call(function, stopped)
    assert len(tries) == 1
    assert time.monotonic() - start < 5


def test_an_event_that_is_set_meanwhile_ends_a_wait() -> None:
    stopped = threading.Event()
    timer = threading.Timer(0.05, stopped.set)
    timer.start()
    start = time.monotonic()
    tries: list[int] = []

    def function() -> str:
        tries.append(1)
        raise busy(60.0)

    with pytest.raises(ServerUnavailableError):
        RetryPolicy().call(function, stopped)
    timer.join()
    assert time.monotonic() - start < 5
    assert len(tries) <= 2
