# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.metrics`: names as Prometheus wants them."""

from __future__ import annotations

import re

import pytest

from flagtriton.protocol import metrics
from flagtriton.protocol.metrics import METRICS, Metric


def test_all_of_them_are_listed_once() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert sorted(METRICS, key=lambda metric: metric.name) == sorted(defined, key=lambda metric: metric.name)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_of_the_project_and_tell_counters(metric: Metric) -> None:
    assert re.fullmatch(r"flagtriton_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")
    assert not {"deployment", "step", "instance", "job", "le"} & set(metric.labels)
