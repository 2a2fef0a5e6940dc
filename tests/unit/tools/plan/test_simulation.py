# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.plan.simulation`, held to what queueing theory says of the cases that it can solve."""

from __future__ import annotations

import numpy as np
import pytest

from flagtriton_tools.plan.scenario import Failure, ScaleOut, Server, Traffic
from flagtriton_tools.plan.simulation import simulate

ONE = np.array([1])
SECOND = Server(tokens_per_s=100.0, token_budget=1)
"""Works 10 ms on a request of one token, one after another."""


def test_one_server_without_batches_waits_as_long_as_a_queue_of_poisson_arrivals_and_fixed_work() -> None:
    """M/D/1: the mean wait is `load / (2 (1 - load))` of the work (Pollaczek and Khinchine)."""
    for load in (0.3, 0.6, 0.8):
        found = simulate(SECOND, 1, Traffic(ONE, rate=100 * load), seconds=1_000, warm_up_s=50)
        expected = 0.01 + 0.01 * load / (2 * (1 - load))
        assert found.latencies_s.mean() == pytest.approx(expected, rel=0.05)
        assert found.busy == pytest.approx(load, rel=0.03)
        assert found.requests_per_s == pytest.approx(100 * load, rel=0.03)


def test_fixed_times_are_added_to_each_request() -> None:
    alone = simulate(SECOND, 1, Traffic(ONE, rate=1), seconds=500)
    slower = simulate(Server(100.0, 1, fixed_s=0.2), 1, Traffic(ONE, rate=1), seconds=500)
    assert slower.latencies_s.mean() - alone.latencies_s.mean() == pytest.approx(0.2, rel=0.02)


def test_callers_that_wait_for_their_answers_keep_a_server_busy_and_no_more() -> None:
    """Little: requests in flight are their rate times their time."""
    found = simulate(SECOND, 1, Traffic(ONE, callers=8), seconds=200, warm_up_s=5)
    assert found.requests_per_s == pytest.approx(100, rel=0.01)
    assert found.latencies_s.mean() == pytest.approx(8 / 100, rel=0.01)
    assert found.busy == pytest.approx(1, rel=0.01)


def test_requests_that_wait_share_a_turn_of_the_budget() -> None:
    server = Server(tokens_per_s=1_000.0, token_budget=100, pass_s=0.05)
    found = simulate(server, 1, Traffic(np.array([10]), callers=20), seconds=100, warm_up_s=5)
    # Two turns of ten requests in flight: each takes 0.05 s and 100 tokens' time.
    assert found.requests_per_s == pytest.approx(10 / 0.15, rel=0.02)
    assert found.percentile_s(50) == pytest.approx(2 * 0.15, rel=0.02)
    assert found.tokens_per_s == pytest.approx(100 / 0.15, rel=0.02)


def test_work_on_requests_is_added_for_each_of_a_turn() -> None:
    server = Server(tokens_per_s=1_000.0, token_budget=100, work_s=0.01)
    found = simulate(server, 1, Traffic(np.array([10]), callers=20), seconds=100, warm_up_s=5)
    assert found.requests_per_s == pytest.approx(1 / (0.01 + 0.01), rel=0.02)


def test_work_on_requests_is_done_one_after_another_so_that_the_first_is_answered_first() -> None:
    server = Server(tokens_per_s=1_000.0, token_budget=100, work_s=0.01)
    # The first comes to an idle encoder and is a turn by itself of 0.02 s; the others are the next.
    traffic = Traffic(np.array([10]), moments_s=np.array([0.0, 0.01, 0.01, 0.01]))
    expected = [0.02, *(0.01 + 0.03 + 0.01 * number for number in (1, 2, 3))]
    assert np.sort(simulate(server, 1, traffic, seconds=1).latencies_s) == pytest.approx(expected)


def test_requests_come_at_the_moments_that_were_seen_and_all_are_answered() -> None:
    moments = np.array([0.0, 0.0, 0.005, 1.0])
    found = simulate(SECOND, 1, Traffic(ONE, moments_s=moments), seconds=1)
    assert found.latencies_s == pytest.approx([0.01, 0.02, 0.025, 0.01])
    assert found.requests_per_s == 4


def test_of_moments_those_behind_the_warm_up_count_however_late_they_are_answered() -> None:
    moments = np.array([0.0, 0.999, 1.0, 1.0])
    found = simulate(SECOND, 1, Traffic(ONE, moments_s=moments), seconds=1, warm_up_s=1)
    assert found.latencies_s == pytest.approx([0.019, 0.029])


def test_a_request_over_the_budget_is_a_turn_by_itself() -> None:
    found = simulate(Server(1_000.0, 100), 1, Traffic(np.array([500]), callers=1), seconds=100)
    assert found.requests_per_s == pytest.approx(2, rel=0.02)


def test_the_tokenizer_may_be_what_limits() -> None:
    server = Server(tokens_per_s=1e6, token_budget=10_000, request_s=0.01, request_tokens_per_s=1_000.0)
    found = simulate(server, 1, Traffic(np.array([10]), callers=50), seconds=50, warm_up_s=5)
    assert found.requests_per_s == pytest.approx(1 / 0.02, rel=0.02)
    assert found.busy < 0.1


@pytest.mark.parametrize("servers", [2, 4])
def test_servers_share_the_work(servers: int) -> None:
    found = simulate(SECOND, servers, Traffic(ONE, callers=8 * servers), seconds=100, warm_up_s=5)
    assert found.requests_per_s == pytest.approx(100 * servers, rel=0.02)


def test_the_least_loaded_server_is_better_than_chance() -> None:
    """Two servers behind one balancer wait less than one alone with half of the load."""
    alone = simulate(SECOND, 1, Traffic(ONE, rate=80), seconds=300, warm_up_s=50)
    both = simulate(SECOND, 2, Traffic(ONE, rate=160), seconds=300, warm_up_s=50)
    assert both.latencies_s.mean() < 0.75 * alone.latencies_s.mean()


def test_more_than_servers_can_do_waits_ever_longer() -> None:
    short = simulate(SECOND, 1, Traffic(ONE, rate=150), seconds=20)
    long = simulate(SECOND, 1, Traffic(ONE, rate=150), seconds=80)
    assert long.percentile_s(95) > 2 * short.percentile_s(95)
    assert long.requests_per_s == pytest.approx(100, rel=0.03)


# What goes wrong.


def test_requests_of_a_server_that_fails_go_to_the_others() -> None:
    failures = [Failure(at_s=20, server=0, away_s=10)]
    found = simulate(SECOND, 2, Traffic(ONE, rate=90), seconds=60, failures=failures)
    whole = simulate(SECOND, 2, Traffic(ONE, rate=90), seconds=60)
    assert len(found.latencies_s) == pytest.approx(len(whole.latencies_s), abs=20)
    assert found.percentile_s(99) > 2 * whole.percentile_s(99)


def test_where_the_only_server_is_away_requests_wait_for_it() -> None:
    failures = [Failure(at_s=10, server=0, away_s=5)]
    found = simulate(SECOND, 1, Traffic(ONE, callers=4), seconds=30, failures=failures)
    assert found.latencies_s.max() == pytest.approx(5, abs=0.1)
    assert found.repeated == 4
    assert found.requests_per_s == pytest.approx(100 * 25 / 30, rel=0.03)


def test_a_server_is_added_where_requests_wait_and_not_at_once() -> None:
    policy = ScaleOut(wait_s=0.05, delay_s=30, most=3, every_s=5)
    found = simulate(SECOND, 1, Traffic(ONE, rate=180), seconds=120, scale_out=policy)
    assert found.servers == 3
    late = simulate(SECOND, 1, Traffic(ONE, rate=180), seconds=30, scale_out=policy)
    assert late.servers == 1
    idle = simulate(SECOND, 1, Traffic(ONE, rate=20), seconds=120, scale_out=policy)
    assert idle.servers == 1


def test_what_comes_in_the_warm_up_is_not_counted() -> None:
    found = simulate(SECOND, 1, Traffic(ONE, rate=50), seconds=100, warm_up_s=100)
    assert found.requests_per_s == pytest.approx(50, rel=0.05)
    assert found.busy == pytest.approx(0.5, rel=0.1)


def test_the_same_seed_is_the_same_run() -> None:
    first, again, other = (simulate(SECOND, 2, Traffic(ONE, rate=90), seconds=20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.latencies_s, again.latencies_s)
    assert not np.array_equal(first.latencies_s, other.latencies_s)


@pytest.mark.parametrize(
    ("servers", "traffic"),
    [(0, Traffic(ONE, rate=1)), (1, Traffic(ONE)), (1, Traffic(ONE, rate=1, callers=1))],
)
def test_what_cannot_be_simulated_is_refused(servers: int, traffic: Traffic) -> None:
    with pytest.raises(ValueError, match="a simulation needs"):
        simulate(SECOND, servers, traffic, seconds=1)


def test_nothing_answered_has_no_percentile() -> None:
    found = simulate(Server(0.001, 1), 1, Traffic(ONE, callers=1), seconds=1)
    assert np.isnan(found.percentile_s(95))
