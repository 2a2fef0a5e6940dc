# SPDX-License-Identifier: Apache-2.0
"""Triton's log and Triton's metrics, through the API of its Python backend."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import triton_python_backend_utils as pb_utils

from flagtriton.protocol.metrics import Metric
from flagtriton_server.backend.metrics_publisher import MetricHandle

__all__ = ["log_error", "log_info", "open_series"]

_OPEN_SERIES: list[Any] = []
"""All open series. Triton 24.10's stub crashes when a series is garbage-collected, so they are kept here."""


def log_info(message: str) -> None:
    """Write one line to the server's log."""
    pb_utils.Logger.log_info(f"[flagtriton] {message}")


def log_error(message: str) -> None:
    """Write an error to the server's log."""
    pb_utils.Logger.log_error(f"[flagtriton] {message}")


def open_series(metric: Metric, labels: Mapping[str, str]) -> MetricHandle:
    """Return a Triton metric with a set of labels. It stays open until the process ends."""
    series = _family(metric).Metric(labels=dict(labels))
    _OPEN_SERIES.append(series)
    return series


@cache
def _family(metric: Metric) -> Any:  # noqa: ANN401 - `pb_utils.MetricFamily`
    kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
    return pb_utils.MetricFamily(name=metric.name, description=metric.help, kind=kind)
