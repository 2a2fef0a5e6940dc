# SPDX-License-Identifier: Apache-2.0
"""A deployment that goes from one checkpoint to another on a running server, under load, and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from flagtriton import FlagModel
from flagtriton.protocol.text import text_tensor
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.repository.versions import add_version, remove_version, switch_version
from flagtriton_tools.serve.control import load_deployment
from flagtriton_tools.serve.launcher import running_server
from flagtriton_tools.tritonserver.admin import Admin
from flagtriton_tools.tritonserver.process import RunningServer
from flagtriton_tools.tritonserver.stubs import stub_processes
from tests.conftest import serve_options
from tests.support.checkpoints.tiny import TEXTS, make_bert, make_xlm_roberta
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

CALLERS = 4
STEPS = {"moving_tokenizer", "moving_encoder"}


def models(checkpoint: Path) -> list[Model]:
    options = AddOptions(name="moving", precision="fp32", max_length=100, pool_in_encoder=True)
    return build(inspect_checkpoint(str(checkpoint)), options)


class Traffic:
    """Callers that ask for the same vectors again and again until they are told to stop.

    Attributes:
        answered: for each version, how many calls it has answered.
        known: the vectors of each version.
        failed: what calls came to that failed, or whose vectors are no version's.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.known: dict[str, NDArray[Any]] = {}
        self.answered: dict[str, int] = {}
        self.failed: list[object] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def settled(self, version: str) -> None:
        """Wait until a version has answered some more calls, and check that no other has any longer."""
        self._wait(version, CALLERS)  # those that were under way are done
        before = dict(self.answered)
        self._wait(version, 5 * CALLERS)
        assert {name: count for name, count in self.answered.items() if count != before[name]}.keys() == {version}

    def _wait(self, version: str, more: int) -> None:
        wanted, deadline = self.answered.get(version, 0) + more, time.monotonic() + 60
        while self.answered.get(version, 0) < wanted:
            assert not self.failed
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _call(self) -> None:
        client = triton.InferenceServerClient(self._url)
        tensor = triton.InferInput("text", [len(TEXTS), 1], "BYTES")
        tensor.set_data_from_numpy(text_tensor(TEXTS))
        while not self._stop.is_set():
            try:
                result = client.infer("moving", [tensor])
            except Exception as error:
                self.failed.append(error)
                return
            self._check(result.get_response().model_version, result.as_numpy("dense_vecs"))

    def _check(self, version: str, vectors: NDArray[Any]) -> None:
        """Count an answer; what bears one version's number has that version's vectors, from the first to the last."""
        with self._lock:
            known = self.known.setdefault(version, vectors)
            if known.shape != vectors.shape or not np.allclose(known, vectors, atol=1e-5):
                self.failed.append(f"version {version} answered otherwise than before")
            self.answered[version] = self.answered.get(version, 0) + 1


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Path:
    folder = tmp_path_factory.mktemp("versions") / "repository"
    add_models(models(bert), folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[RunningServer]:
    with running_server(serve_options(repository, repository.parent / "log")) as server:
        yield server


def test_traffic_moves_to_another_version_and_back_without_a_failed_request(
    repository: Path, server: RunningServer, tmp_path: Path
) -> None:
    admin = Admin(server.options.http_url, server.secret)
    first = stub_processes(server.process.pid)
    assert first.keys() == {(step, "1") for step in STEPS}
    with Traffic(server.options.grpc_url.removeprefix("grpc://")) as traffic:
        traffic.settled("1")
        # Another tokenizer, another architecture, other weights, other limits.
        add_version(models(make_xlm_roberta(tmp_path / "june")), repository, 2)
        traffic.settled("1")
        load_deployment(admin, "moving")
        traffic.settled("2")
        both = stub_processes(server.process.pid)
        assert both.keys() == {(step, version) for step in STEPS for version in "12"}
        assert {name: both[name] for name in first} == first  # the first was not started anew

        switch_version("moving", 1, repository)
        load_deployment(admin, "moving")
        traffic.settled("1")
        assert stub_processes(server.process.pid) == both  # going back starts nothing

        switch_version("moving", 2, repository)
        load_deployment(admin, "moving")
        traffic.settled("2")
        remove_version("moving", 1, repository)
        load_deployment(admin, "moving")
        second = {(step, version): pids for (step, version), pids in both.items() if version == "2"}
        wait_for(lambda: stub_processes(server.process.pid) == second)
        traffic.settled("2")

        broken = make_bert(tmp_path / "july")
        add_version(models(broken), repository, 3)
        (broken / "model.safetensors").unlink()
        with pytest.raises(ToolError, match=r"load failed for model 'moving_encoder': version 3"):
            load_deployment(admin, "moving")
        traffic.settled("2")
        switch_version("moving", 2, repository)
        remove_version("moving", 3, repository)
        load_deployment(admin, "moving")
        traffic.settled("2")
    assert traffic.failed == []
    assert traffic.answered.keys() == {"1", "2"}
    assert traffic.known["1"].shape != traffic.known["2"].shape or not np.allclose(*traffic.known.values(), atol=1e-2)


def test_the_sdk_goes_along(repository: Path, server: RunningServer) -> None:
    model = FlagModel("moving", url=server.options.grpc_url, use_fp16=False)
    assert np.allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, atol=1e-5)


def test_metrics_tell_the_versions_apart(server: RunningServer) -> None:
    body = Admin(f"http://127.0.0.1:{server.options.metrics_port}").get("/metrics").body.decode()
    texts = [line for line in body.splitlines() if line.startswith('flagtriton_texts_total{deployment="moving"')]
    assert {version for line in texts for version in "123" if f'version="{version}"' in line} >= {"1", "2"}
    assert all(float(line.rpartition(" ")[2]) > 0 for line in texts if 'version="3"' not in line)
