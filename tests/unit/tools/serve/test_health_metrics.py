# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.health_metrics`: how a server stands, for Prometheus."""

from __future__ import annotations

import urllib.request

from flagtriton_tools.observe.scrape import Scrape
from flagtriton_tools.serve.health import READY, Health, served_health
from flagtriton_tools.serve.health_metrics import CONTENT_TYPE, exposition
from flagtriton_tools.tritonserver.options import free_ports


def said(health: Health) -> Scrape:
    return Scrape.parsed(exposition(health.to_json()).decode(), at=0.0)


def test_deployments_that_answer_are_told_from_those_that_do_not() -> None:
    health = Health()
    health.server_is(READY, restarts=2)
    health.deployment_is("bge-m3", READY)
    health.deployment_is("e5", "recovering", "its process has died")
    metrics = said(health)
    assert metrics.sum("flagtriton_ready") == 0
    assert metrics.sum("flagtriton_server_restarts_total") == 2
    assert metrics.sum("flagtriton_deployment_ready", deployment="bge-m3") == 1
    assert dict(metrics.samples)["flagtriton_deployment_ready"] == [
        ({"deployment": "bge-m3"}, 1.0),
        ({"deployment": "e5"}, 0.0),
    ]
    health.deployment_is("e5", READY, recovered=True)
    metrics = said(health)
    assert metrics.sum("flagtriton_ready") == 1
    assert metrics.sum("flagtriton_recoveries_total", deployment="e5") == 1


def test_they_are_on_the_launchers_port() -> None:
    health = Health()
    health.deployment_is('of a "name"', READY)
    (port,) = free_ports(1)
    with (
        served_health(health, "127.0.0.1", port),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        metrics = Scrape.parsed(answer.read().decode(), at=0.0)
    assert metrics.sum("flagtriton_deployment_ready", deployment='of a "name"') == 1
