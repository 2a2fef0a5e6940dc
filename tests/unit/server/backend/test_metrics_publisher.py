# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.metrics_publisher`: sums and gauges on their way to Triton's metrics."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from flagtriton.protocol.metrics import BUSY, MICRO_BATCHES, QUEUE_SECONDS, WAITING_REQUESTS, Metric
from flagtriton_server.backend.metrics_publisher import MetricsPublisher

OWN = {"deployment": "bge-m3", "step": "encoder"}


@dataclass
class Kept:
    """Stands in for Triton: the series it keeps, and how often each was told something."""

    values: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)
    told: int = 0
    fails: bool = False
    noticed: threading.Condition = field(default_factory=threading.Condition)

    def open_series(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        if self.fails:
            raise RuntimeError("metrics are off")
        key = (metric.name, frozenset(labels.items()))
        kept = self

        class Opened:
            def increment(self, amount: float, /) -> None:
                kept.tell(key, kept.values.get(key, 0.0) + amount)

            def set(self, value: float, /) -> None:
                kept.tell(key, value)

        return Opened()

    def tell(self, key: tuple[str, frozenset[tuple[str, str]]], value: float) -> None:
        with self.noticed:
            self.values[key] = value
            self.told += 1
            self.noticed.notify_all()

    def value(self, metric: Metric, **labels: str) -> float:
        return self.values[metric.name, frozenset({**OWN, **labels}.items())]

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        with self.noticed:
            return self.noticed.wait_for(condition, timeout=30)


def tally(kept: Kept, errors: list[str] | None = None, every_s: float = 0.01) -> MetricsPublisher:
    return MetricsPublisher(kept.open_series, OWN, ([] if errors is None else errors).append, every_s)


def test_what_was_added_before_and_after_the_start_is_published_once() -> None:
    kept = Kept()
    made = tally(kept)
    made.add(MICRO_BATCHES)
    made.add(QUEUE_SECONDS, 0.25, priority="bulk")
    made.start()
    assert kept.wait_for(lambda: len(kept.values) == 2)
    made.add(MICRO_BATCHES, 2)
    made.add(QUEUE_SECONDS, 0.5, priority="bulk")
    made.add(QUEUE_SECONDS, 4, priority="interactive")
    made.stop()
    assert kept.value(MICRO_BATCHES) == 3
    assert kept.value(QUEUE_SECONDS, priority="bulk") == 0.75
    assert kept.value(QUEUE_SECONDS, priority="interactive") == 4


def test_stopping_publishes_what_is_left_however_long_the_next_time_is_away() -> None:
    kept = Kept()
    made = tally(kept, every_s=3600)
    made.start()
    made.add(MICRO_BATCHES, 7)
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 30
    assert kept.value(MICRO_BATCHES) == 7


def test_a_counter_to_which_nothing_was_added_is_known_as_zero() -> None:
    kept = Kept()
    made = tally(kept)
    made.add(BUSY, 0, process="p")
    made.start()
    made.stop()
    assert kept.value(BUSY, process="p") == 0


def test_what_does_not_change_is_not_told_again_but_gauges_are_read_each_time() -> None:
    kept, reads = Kept(), [3.0, 5.0]
    made = tally(kept)
    made.add(MICRO_BATCHES)
    made.watch(WAITING_REQUESTS, lambda: reads.pop(0) if len(reads) > 1 else reads[0], process="p")
    made.start()
    assert kept.wait_for(lambda: kept.told >= 6)
    assert kept.value(WAITING_REQUESTS, process="p") == 5
    made.stop()
    assert kept.value(MICRO_BATCHES) == 1


def test_gauges_are_nan_once_nobody_reads_them_any_more() -> None:
    kept = Kept()
    made = tally(kept)
    made.add(MICRO_BATCHES)
    made.watch(WAITING_REQUESTS, lambda: 3.0, process="p")
    made.start()
    assert kept.wait_for(lambda: len(kept.values) == 2)
    assert kept.value(WAITING_REQUESTS, process="p") == 3
    made.stop()
    assert math.isnan(kept.value(WAITING_REQUESTS, process="p"))
    assert kept.value(MICRO_BATCHES) == 1


def test_nothing_is_lost_between_threads() -> None:
    kept = Kept()
    made = tally(kept, every_s=0.001)
    made.start()
    threads = [threading.Thread(target=lambda: [made.add(MICRO_BATCHES) for _ in range(500)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    made.stop()
    assert kept.value(MICRO_BATCHES) == 2000


def test_a_server_without_metrics_is_told_of_once_and_stops_nothing() -> None:
    errors: list[str] = []
    made = tally(Kept(fails=True), errors)
    made.add(MICRO_BATCHES)
    made.start()
    made.add(MICRO_BATCHES)
    made.stop()
    made.add(MICRO_BATCHES)
    assert errors == ["no metrics from here on: metrics are off"]


@pytest.mark.parametrize("started", [False, True])
def test_it_may_be_stopped_whether_or_not_it_was_started(started: bool) -> None:
    made = tally(Kept())
    if started:
        made.start()
    made.stop()
