# SPDX-License-Identifier: Apache-2.0
"""A short form of `python -m tests.robustness.faults`: processes killed and a server drained while callers go on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.robustness.faults.scenarios import drain_under_load, kill_server, kill_stubs
from tests.robustness.faults.serving import DEMO, RERANKER, TINY, Serving, make_repository, serving
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

ALL = (DEMO, RERANKER, TINY)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serve them with a file for probes; the tests below follow each other, and the last one ends it."""
    folder = tmp_path_factory.mktemp("serving")
    with serving(repository, folder, "--health-file", str(folder / "healthy")) as running:
        yield running


def test_killed_model_processes_come_back_and_no_caller_loses_a_text(server: Serving, repository: Path) -> None:
    seen = kill_stubs(server, repository, every_s=6, kills=1, threads=3, seed=3, report=print, request_timeout_s=15)
    assert (seen["answered"], seen["wrong"], seen["raised"]) == (seen["sent"], 0, {})
    assert [each["failures_of_others"] for each in seen["recoveries"]] == [[]]
    # 15 s, or on a busy machine no longer than all processes together took to start just before.
    assert max(each["seconds"] for each in seen["recoveries"]) <= max(15, server.start_s)
    assert set(seen["failed_tries"]), "the kills were not noticed by anybody"
    assert server.said.read_text().count("recovered: ") == 1


def test_a_deployment_is_unloaded_and_loaded_while_others_answer(server: Serving) -> None:
    def control(command: str) -> subprocess.CompletedProcess[str]:
        environment = {"XDG_STATE_HOME": str(server.said.parent / "state"), "PATH": "/usr/bin:/bin"}
        arguments = [sys.executable, "-m", "flagtriton_tools", command, TINY, "--url", server.http_url]
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)

    models = f"{TINY}, {TINY}_tokenizer, {TINY}_encoder, {TINY}_pooler"
    assert control("unload").stderr.endswith(f"unloaded {models}\n")
    assert (server.said.parent / "state" / "flagtriton").is_dir()
    assert control("unload").stderr == f"flagtriton: {TINY} is not loaded at {server.http_url}\n"
    assert control("load").stderr == f"loaded {models}\n"
    deadline = time.monotonic() + 10
    while server.health()["deployments"].get(TINY, {}).get("state") != "ready" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {name: each["state"] for name, each in server.health()["deployments"].items()} == dict.fromkeys(ALL, "ready")


def test_one_call_outlives_a_killed_server(server: Serving) -> None:
    seen = kill_server(server, count=3_000, report=print)
    assert (seen["restarts"], seen["shape_is_right"]) == (1, True)
    assert seen["largest_difference"] <= 1e-6
    assert "tritonserver ended by itself with code 137" in server.said.read_text()
    server.wait_until_ready()
    wait_for((server.said.parent / "healthy").is_file)  # written after /healthz says so


def test_every_request_that_was_accepted_is_answered_before_the_server_ends(server: Serving) -> None:
    seen = drain_under_load(server, threads=6, after_s=1.0)
    assert (seen["exit_code"], seen["lost"]) == (0, {})
    assert seen["answered"] > 20
    assert not (server.said.parent / "healthy").exists()
