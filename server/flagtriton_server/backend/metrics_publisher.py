# SPDX-License-Identifier: Apache-2.0
"""Metrics of a step: counters are summed up here, and all values are passed to Triton once a second.

An update of a Triton metric is a round trip to another process. No request should wait for that. Imports no torch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from flagtriton.protocol.metrics import Metric

__all__ = ["MetricHandle", "MetricsPublisher"]

_EVERY_S = 1.0

_Key: TypeAlias = tuple[Metric, tuple[tuple[str, str], ...]]


class MetricHandle(Protocol):
    """One Triton metric with one set of labels."""

    def increment(self, amount: float, /) -> None:
        """Add to the value."""

    def set(self, value: float, /) -> None:
        """Replace the value."""


class MetricsPublisher:
    """Sums up counters and reads gauges. Safe to share between threads.

    Args:
        open_series: opens a Triton metric with a set of labels.
        labels: labels of every series, in addition to the labels of the call.
        log_error: called once with the reason if publishing fails; the step then continues without metrics.
        every_s: seconds between two publications.
    """

    def __init__(
        self,
        open_series: Callable[[Metric, Mapping[str, str]], MetricHandle],
        labels: Mapping[str, str],
        log_error: Callable[[str], object],
        every_s: float = _EVERY_S,
    ) -> None:
        self._open_series = open_series
        self._labels = dict(labels)
        self._log_error = log_error
        self._every_s = every_s
        self._lock = threading.Lock()
        self._sums: dict[_Key, float] = {}
        self._gauges: dict[_Key, Callable[[], float]] = {}
        self._series: dict[_Key, MetricHandle] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._publish_on, name="flagtriton metrics", daemon=True)

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter. An amount of 0 creates the counter, so that its first increase is visible."""
        key = (metric, tuple(labels.items()))
        with self._lock:
            self._sums[key] = self._sums.get(key, 0.0) + amount

    def watch(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Register a gauge, which `read` returns at each publication."""
        with self._lock:
            self._gauges[metric, tuple(labels.items())] = read

    def start(self) -> None:
        """Start the thread that publishes."""
        self._thread.start()

    def stop(self) -> None:
        """Publish the last sums, and NaN for gauges, because their values end here."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _publish_on(self) -> None:
        try:
            while True:
                self._publish()
                if self._stopped.wait(self._every_s):
                    self._forget_gauges()
                    self._publish()
                    return
        except Exception as error:  # a metrics failure must not stop serving; Triton may run with metrics disabled
            self._log_error(f"no metrics from here on: {error}")

    def _forget_gauges(self) -> None:
        with self._lock:
            self._gauges = dict.fromkeys(self._gauges, lambda: math.nan)

    def _publish(self) -> None:
        with self._lock:
            sums, self._sums = self._sums, {}
            gauges = dict(self._gauges)
        for key, amount in sums.items():
            self._opened(key).increment(amount)
        for key, read in gauges.items():
            self._opened(key).set(read())

    def _opened(self, key: _Key) -> MetricHandle:
        if key not in self._series:
            metric, labels = key
            self._series[key] = self._open_series(metric, {**self._labels, **dict(labels)})
        return self._series[key]
