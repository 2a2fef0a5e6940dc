# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the deployments' health.

Triton's metrics do not show a model with a dead process.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flagtriton_tools.tritonserver.machine import SHARED_MEMORY

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Standing(Collector):
    def __init__(self, standing: Mapping[str, Any]) -> None:
        self._standing = standing

    def collect(self) -> Iterator[Metric]:
        standing = self._standing
        yield GaugeMetricFamily("flagtriton_ready", "1 if every deployment answers.", value=standing["ready"])
        yield CounterMetricFamily(
            "flagtriton_server_restarts",
            "How often tritonserver was started again, since it last ran for 10 minutes.",
            value=standing["restarts"],
        )
        yield GaugeMetricFamily(
            "flagtriton_shared_memory_free_bytes",
            "Of /dev/shm, through which tensors travel between steps.",
            value=shutil.disk_usage(SHARED_MEMORY).free,
        )
        ready = GaugeMetricFamily("flagtriton_deployment_ready", "1 if it answers.", labels=["deployment"])
        recoveries = CounterMetricFamily(
            "flagtriton_recoveries", "How often a process that had died was brought back.", labels=["deployment"]
        )
        for name, deployment in standing["deployments"].items():
            ready.add_metric([name], deployment["state"] == "ready")
            recoveries.add_metric([name], deployment["recoveries"])
        yield ready
        yield recoveries


def exposition(standing: Mapping[str, Any]) -> bytes:
    """Return the metrics for a result of `Health.to_json`, in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Standing(standing))
    return generate_latest(registry)
