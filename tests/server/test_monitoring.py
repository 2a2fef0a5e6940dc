# SPDX-License-Identifier: Apache-2.0
"""What a real server tells a real Prometheus, `flagtriton top` and its log of requests."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from flagtriton import FlagAutoModel, FlagAutoReranker
from flagtriton.protocol.metrics import METRICS
from flagtriton_tools.observe.rates import rates_between
from flagtriton_tools.observe.scrape import Scrape, scrape
from tests.robustness.faults.serving import DEMO, RERANKER, TINY, Serving, make_repository, serving
from tests.support.servers.prometheus import CAN_RUN, FOLDER, Prometheus, promtool, running_prometheus
from tests.support.waiting import told_scrape, wait_for

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not CAN_RUN, reason="no Prometheus: apt-get install prometheus"),
]

ALL = {DEMO, RERANKER, TINY}
LONG = "words of a text that goes on and on " * 300
DASHBOARD = FOLDER.parent / "grafana" / "dashboards" / "flagtriton.json"
OF_GPUS = "nv_gpu_"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("monitored")
    with serving(make_repository(folder), folder / "serving", "--request-log", str(folder / "requests")) as running:
        yield running


@pytest.fixture(scope="module")
def request_log(server: Serving) -> Path:
    return server.said.parents[1] / "requests"


@pytest.fixture(scope="module")
def prometheus(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    targets = {"flagtriton": [server.metrics_port], "flagtriton-launcher": [server.health_port]}
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        yield running


@pytest.fixture(scope="class")
def load(server: Serving) -> Iterator[None]:
    """Ask all deployments all the time: queries, a bulk job with long texts, pairs, and bad requests."""
    over = Event()
    with (
        FlagAutoModel.from_finetuned(DEMO, url=server.grpc_url) as demo,
        FlagAutoModel.from_finetuned(DEMO, url=server.grpc_url, priority="bulk") as corpus,
        FlagAutoModel.from_finetuned(TINY, url=server.grpc_url) as tiny,
        FlagAutoReranker.from_finetuned(RERANKER, url=server.grpc_url) as reranker,
        triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client,
    ):

        def ask() -> None:
            while not over.is_set():
                demo.encode(["a query"])
                corpus.encode(["a text", LONG] * 4)
                tiny.encode(["a text"])
                reranker.compute_score([("a query", "a passage")])
                with pytest.raises(triton.InferenceServerException):
                    client.infer(DEMO, [text_input()], parameters={"max_length": -1})

        thread = Thread(target=ask, daemon=True)
        thread.start()
        yield
        over.set()
        thread.join(60)
        assert not thread.is_alive()


def text_input() -> Any:
    made = triton.InferInput("text", [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[b"a text"]], dtype=object))
    return made


def said_by(server: Serving) -> Scrape:
    return told_scrape(server.metrics_url)


@pytest.fixture
def model(server: Serving) -> Iterator[Any]:
    with FlagAutoModel.from_finetuned(DEMO, url=server.grpc_url, priority="bulk") as connected:
        yield connected


# What is counted: before there is any other load.


def test_a_call_s_texts_and_tokens_are_counted_exactly(server: Serving, model: Any) -> None:
    before = said_by(server)
    model.encode(["one", "two words", LONG])
    after = said_by(server)

    def grown(name: str, **labels: str) -> float:
        return after.sum(name, deployment=DEMO, **labels) - before.sum(name, deployment=DEMO, **labels)

    # The launcher's own question every 2 s is interactive, of one short text.
    assert grown("flagtriton_truncated_texts_total") == 1
    assert grown("flagtriton_requests_total", step="encoder", priority="bulk", code="ok") == 1
    assert grown("flagtriton_texts_total") == 3 + grown("flagtriton_requests_total", step="tokenizer", code="ok") - 1
    own_questions = grown("flagtriton_requests_total", step="encoder", priority="interactive", code="ok")
    tokens = grown("flagtriton_tokens_total")
    longest = model.served.deployment.max_length
    assert 3 + 4 + longest <= tokens <= 3 + 4 + longest + 8 * own_questions
    assert grown("flagtriton_micro_batch_tokens_total") == tokens
    assert grown("flagtriton_busy_seconds_total", step="encoder") > 0


def test_names_and_units_are_as_prometheus_wants_them(server: Serving) -> None:
    said_by(server)
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=10) as answer:
        own = [line for line in answer.read().decode().splitlines() if "flagtriton_" in line]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.health_port}/metrics", timeout=10) as answer:
        own += answer.read().decode().splitlines()
    checked = promtool("check", "metrics", standard_input="\n".join(own) + "\n")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}" in own
        assert f"# HELP {metric.name} {metric.help}" in own


NOTHING = {"Are GPUs at work?", "Is there GPU memory left?", "What is refused?", "Does it fail inside?"}
"""Panels that stay empty: there is no GPU, and nothing goes wrong."""


def are_numbers(prometheus: Prometheus, query: str) -> bool:
    """Return whether a query gives anything, and numbers alone: a rate takes two scrapes, and a share a rate."""
    found = prometheus.query(query)
    return bool(found) and all(0 <= value < float("inf") for _, value in found)


@pytest.mark.usefixtures("load")
class TestUnderLoad:
    """While callers go on."""

    def test_every_panel_s_query_finds_something(self, prometheus: Prometheus) -> None:
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"].replace("$deployment", ".*")
                if panel["title"] in NOTHING:
                    assert not prometheus.query(query), query
                else:
                    wait_for(partial(are_numbers, prometheus, query), what=partial(prometheus.query, query))

    def test_recorded_numbers_are_those_of_the_load(self, prometheus: Prometheus) -> None:
        assert [value for _, value in prometheus.query("flagtriton_ready")] == [1]
        rate = "deployment:flagtriton_tokens:rate1m"
        prometheus.wait_for(f"count({rate} > 0) == {len(ALL)}")  # a rate is 0 before its first rise is seen
        by_deployment = {labels["deployment"]: value for labels, value in prometheus.query(rate)}
        assert set(by_deployment) == ALL
        assert by_deployment[DEMO] > by_deployment[TINY] > 0
        cut = {
            labels["deployment"]: value
            for labels, value in prometheus.wait_for("deployment:flagtriton_truncated_texts:share1h")
        }
        assert cut[TINY] == 0
        assert 0.2 < cut[DEMO] < 0.5  # 4 of 9 texts, and the launcher's own
        bad = f'deployment_priority_code:flagtriton_requests:rate1m{{deployment="{DEMO}", code="invalid_arg"}}'
        assert prometheus.wait_for(bad)[0][1] > 0
        assert not prometheus.query('ALERTS{alertstate="firing", severity="page"}')

    def test_top_shows_every_deployment(self, server: Serving) -> None:
        command = [
            sys.executable,
            "-m",
            "flagtriton_tools",
            "top",
            "--url",
            server.metrics_url,
            "--once",
            "--every",
            "3",
        ]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for name in ALL:
            assert name in shown
        told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
        rows = {row["deployment"]: row for row in map(json.loads, told.splitlines())}
        assert set(rows) == ALL
        row = rows[DEMO]
        assert row["silent"] == []
        assert row["requests_per_s"] > 0
        assert row["failed_per_s"] > 0
        assert row["tokens_per_s"] > 0
        assert 0 < row["p50_s"] <= row["p99_s"]
        assert 0 < row["busy"] <= 1.01
        assert row["tokens_a_pass"] > 0
        assert 0 <= row["padding"] < 1

    def test_a_process_that_dies_is_silent_until_it_is_back_and_counts_on(
        self, server: Serving, prometheus: Prometheus, model: Any
    ) -> None:
        counted = f'sum(flagtriton_tokens_total{{deployment="{TINY}"}})'
        seen = f'flagtriton_step_last_seen_timestamp_seconds{{deployment="{TINY}", step="encoder"}}'
        before = prometheus.wait_for(counted)[0][1]
        server.stubs[f"{TINY}_encoder"].send_signal(signal.SIGKILL)
        assert prometheus.wait_for(f'flagtriton_recoveries_total{{deployment="{TINY}"}} == 1')
        server.wait_until_ready()
        assert prometheus.wait_for(f"time() - {seen} < 3")
        assert len(prometheus.query(seen)) == 1
        assert prometheus.wait_for(f"{counted} != {before}")
        assert model.encode(["still there"]).shape


# The log, and what is left of a deployment that is no longer served.


def test_the_log_has_a_line_for_each_request_and_step_and_no_text(server: Serving, request_log: Path) -> None:
    start = len(request_log.read_text().splitlines())
    with triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        client.infer(DEMO, [text_input()], request_id="order-66")
        with pytest.raises(triton.InferenceServerException):
            client.infer(DEMO, [text_input()], request_id="order-67", parameters={"max_length": -1})
    deadline = time.monotonic() + 10
    while True:
        entries = [json.loads(line) for line in request_log.read_text().splitlines()]
        own = [entry for entry in entries[start:] if str(entry.get("id", "")).startswith("order-")]
        if len(own) >= 3 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert [(e["id"], e["step"], e["code"]) for e in own] == [
        ("order-66", "tokenizer", "ok"),
        ("order-66", "encoder", "ok"),
        ("order-67", "tokenizer", "invalid_arg"),
    ]
    assert own[1]["tokens"] == 4
    assert own[1]["total_ms"] >= own[1]["queue_ms"] >= 0
    assert "max_length" in own[2]["error"]
    steps = Counter((entry["deployment"], entry["step"]) for entry in entries)
    assert {deployment for deployment, _ in steps} == ALL
    assert "goes on and on" not in request_log.read_text()


def test_a_deployment_loaded_anew_counts_on_and_one_unloaded_is_gone(server: Serving) -> None:
    def control(command: str) -> None:
        environment = {"XDG_STATE_HOME": str(server.said.parent / "state"), "PATH": "/usr/bin:/bin"}
        arguments = [sys.executable, "-m", "flagtriton_tools", command, TINY, "--url", server.http_url]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def tokens() -> float:
        return said_by(server).sum("flagtriton_tokens_total", deployment=TINY)

    control("load")
    assert tokens() > 0
    control("unload")
    seen = said_by(server).series("flagtriton_step_last_seen_timestamp_seconds", deployment=TINY)
    assert all(math.isnan(value) for _, value in seen)  # so no alert takes it for one that died
    assert TINY not in [row.deployment for row in rates_between(*(scrape(server.metrics_url) for _ in range(2)))]
