# SPDX-License-Identifier: Apache-2.0
"""Three servers behind one SDK object: one is killed under load and comes back, and no text is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from flagtriton import FlagModel
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from tests.robustness.faults.serving import TINY, Serving, serving
from tests.support.waiting import told_scrape, wait_for

pytestmark = pytest.mark.server

SERVERS = 3
CALLERS = 6
BOUND = 1e-6
TEXTS = [f"text {number} of a corpus" for number in range(60)]


@pytest.fixture(scope="module")
def servers(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Serving]]:
    """Start them at the same time."""
    folder = tmp_path_factory.mktemp("endpoints")
    options = AddOptions(name=TINY, precision="fp32", pooling_method="cls", pool_in_encoder=True)
    add_models(build(inspect_checkpoint(str(bert)), options), folder / "repository")
    with ExitStack() as stack, ThreadPoolExecutor(SERVERS) as pool:
        folders = [folder / f"server-{number}" for number in range(SERVERS)]
        running = list(pool.map(lambda own: stack.enter_context(serving(folder / "repository", own)), folders))
        yield running
        for server in running:  # at the same time, too
            server.process.terminate()


def answered(servers: list[Serving]) -> np.ndarray:
    """Return how many requests each server's encoder has answered."""
    return np.array([_requests(server) for server in servers])


def _requests(server: Serving) -> float:
    return told_scrape(server.metrics_url).sum("flagtriton_requests_total", step="encoder", code="ok", deployment=TINY)


def shares_within(servers: list[Serving], seconds: float) -> np.ndarray:
    """Return which part of the requests each server answered within some seconds, known to the second, from now."""
    before = answered(servers)
    time.sleep(seconds)
    grown = answered(servers) - before
    return grown / grown.sum()


def test_one_of_three_servers_dies_under_load_and_comes_back(servers: list[Serving]) -> None:
    over = Event()
    urls = [server.grpc_url for server in servers]
    with FlagModel(TINY, url=urls[0], use_fp16=False) as alone:
        right = alone.encode(TEXTS)
    sent, wrong = [], []
    with FlagModel(TINY, url=urls, use_fp16=False, concurrency=4, batch_size=8, show_progress=False) as model:

        def call() -> None:
            while not over.is_set():
                answer = model.encode(TEXTS)
                sent.append(len(answer))
                if answer.shape != right.shape or np.abs(answer - right).max() > BOUND:
                    wrong.append(answer)

        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(call) for _ in range(CALLERS)]
            try:
                even = shares_within(servers, 5)
                before = len(sent)
                servers[1].tritonserver.kill()
                wait_for(lambda: not servers[1].health()["ready"])
                servers[1].wait_until_ready()
                assert len(sent) > before  # the others went on meanwhile
                wait_for(lambda: shares_within(servers, 2).min() > 0.2)  # it rests for some seconds before the next try
                again = shares_within(servers, 5)
            finally:
                over.set()
            for each in calls:
                each.result(timeout=120)
    assert "tritonserver ended by itself with code 137" in servers[1].said.read_text()
    assert (set(sent), wrong) == ({len(TEXTS)}, [])
    assert even.min() > 0.2, even
    assert again.min() > 0.2, again


def test_servers_over_both_wires_answer_as_one(servers: list[Serving]) -> None:
    urls = f"{servers[0].grpc_url},{servers[1].http_url}"
    with FlagModel(TINY, url=servers[2].grpc_url, use_fp16=False) as alone, FlagModel(TINY, url=urls) as model:
        before = answered(servers[:2])
        assert np.abs(model.encode(TEXTS, batch_size=4) - alone.encode(TEXTS)).max() <= BOUND
    assert (answered(servers[:2]) > before).all()


def test_a_name_stands_for_its_servers(servers: list[Serving]) -> None:
    with FlagModel(TINY, url=f"dns+grpc://localhost:{servers[0].grpc_port}") as model:
        assert model.encode(["a text"]).shape[0] == 1
