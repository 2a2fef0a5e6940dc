# SPDX-License-Identifier: Apache-2.0
"""Numbers of a step's on their way to Prometheus: added up here, and handed to Triton once a second.

Telling Triton a number is a question to another process and its answer, for which no request should wait. Imports no
torch.
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
    """One metric with one set of labels, as Triton keeps it."""

    def increment(self, amount: float, /) -> None:
        """Add to it."""

    def set(self, value: float, /) -> None:
        """Change it."""


class MetricsPublisher:
    """Sums up counters and reads gauges. Safe to share between threads.

    Args:
        open_series: makes Triton keep a metric with some labels.
        labels: of every series, beside its own.
        log_error: told, once, why nothing can be published; the step goes on without.
        every_s: seconds between two times that it is.
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
        """Add to a counter; 0 makes it known, so that its first rise is seen as one."""
        key = (metric, tuple(labels.items()))
        with self._lock:
            self._sums[key] = self._sums.get(key, 0.0) + amount

    def watch(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Let a gauge be read whenever numbers are published."""
        with self._lock:
            self._gauges[metric, tuple(labels.items())] = read

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what there is, and NaN for gauges: nobody will read them any more."""
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
        except Exception as error:  # numbers are no reason to stop serving; Triton may run without any
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
