# SPDX-License-Identifier: Apache-2.0
"""The server's log and its metrics, as Triton's Python backend offers them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import triton_python_backend_utils as pb_utils

from flagtriton.protocol.metrics import Metric
from flagtriton_server.backend.metrics_publisher import MetricHandle

__all__ = ["log_error", "log_info", "open_series"]

_OPEN_SERIES: list[Any] = []
"""Triton 24.10's stub crashes where a series is garbage-collected, so all are kept."""


def log_info(message: str) -> None:
    """Write one line into the server's log."""
    pb_utils.Logger.log_info(f"[flagtriton] {message}")


def log_error(message: str) -> None:
    """Write an error into the server's log."""
    pb_utils.Logger.log_error(f"[flagtriton] {message}")


def open_series(metric: Metric, labels: Mapping[str, str]) -> MetricHandle:
    """Return one of Triton's own metrics with some labels, until the process ends."""
    series = _family(metric).Metric(labels=dict(labels))
    _OPEN_SERIES.append(series)
    return series


@cache
def _family(metric: Metric) -> Any:  # noqa: ANN401 - `pb_utils.MetricFamily`
    kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
    return pb_utils.MetricFamily(name=metric.name, description=metric.help, kind=kind)
