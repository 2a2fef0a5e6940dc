# SPDX-License-Identifier: Apache-2.0
"""gunicorn's `--preload` and Celery's prefork pool, with a model that was made and used before they fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagModel
from flagtriton_tools.tritonserver.options import free_ports
from tests.conftest import Served
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

both_wires = pytest.mark.parametrize("wire", ["grpc", "http"])
APP = "tests.server.preforking_app"
TEXTS = [f"text {number}" for number in range(7)]
CALLS = 12


@contextmanager
def running(log: Path, environment: Mapping[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=dict(environment), stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def expected(served: Served) -> Any:
    with FlagModel("bert-cls", url=served.grpc_url) as model:
        return model.encode(TEXTS)


@pytest.fixture
def environment(served: Served, wire: str, tmp_path: Path) -> dict[str, str]:
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    url = served.grpc_url if wire == "grpc" else served.http_url
    return {**os.environ, "FLAGTRITON_URL": url, "CELERY_FOLDER": str(tmp_path)}


@both_wires
def test_gunicorn_workers_answer_with_a_model_that_was_preloaded(
    served: Served, environment: dict[str, str], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/?" + urllib.parse.urlencode([("text", text) for text in TEXTS])
    log = tmp_path / "gunicorn.log"
    command = ["gunicorn", "--preload", "--workers=2", "--threads=2", f"--bind=127.0.0.1:{port}", APP]

    def call(_: int) -> Any:
        with urllib.request.urlopen(url, timeout=60) as response:
            return json.load(response)

    with running(log, environment, *command) as process:
        wait_for(lambda: log.read_text().count("Booting worker") == 2, what=log.read_text)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(call, range(CALLS)))
    assert process.pid not in {worker for worker, _ in answers}
    for _, vectors in answers:
        np.testing.assert_allclose(vectors, expected(served), atol=1e-6)


@both_wires
def test_celerys_prefork_pool_answers_with_a_model_of_its_parent(
    served: Served, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "celery.log"
    command = ["celery", "--app", f"{APP}:tasks", "worker", "--pool=prefork", "--concurrency=2", "--loglevel=INFO"]
    send = [sys.executable, "-m", "tests.server.preforking_client", json.dumps(TEXTS), str(CALLS)]
    with running(log, environment, *command) as process:
        wait_for(lambda: "ready." in log.read_text(), what=log.read_text)
        client = subprocess.run(
            send, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
    assert client.returncode == 0, client.stderr + log.read_text()
    answers = json.loads(client.stdout)
    assert len(answers) == CALLS
    assert process.pid not in {worker for worker, _ in answers}
    for _, vectors in answers:
        np.testing.assert_allclose(vectors, expected(served), atol=1e-6)
