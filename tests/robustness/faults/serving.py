# SPDX-License-Identifier: Apache-2.0
"""`flagtriton serve` as a process of its own, which may be killed; and its deployments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flagtriton_tools.demo import minilm_checkpoint
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from flagtriton_tools.tritonserver.options import free_ports
from tests.conftest import obey_ctrl_c
from tests.support.checkpoints.tiny import make_bert, make_reranker

DEMO = "all-MiniLM-L6-v2"
TINY = "bert-cls"
RERANKER = "reranker-bert"


def make_repository(folder: Path) -> Path:
    """Add the demo model, a tiny embedder and a tiny reranker."""
    bert = make_bert(folder / "bert")
    deployments = {
        DEMO: (minilm_checkpoint(), {}),
        TINY: (bert, {"pooling_method": "cls"}),
        RERANKER: (make_reranker(folder / "reranker", make_bert), {}),
    }
    for name, (checkpoint, chosen) in deployments.items():
        options = AddOptions(name=name, precision="fp32", **chosen)
        add_models(build(inspect_checkpoint(str(checkpoint)), options), folder / "repository")
    return folder / "repository"


@dataclass
class Serving:
    """A running `flagtriton serve`."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    health_port: int
    said: Path
    log: Path
    start_s: float = 0.0
    """Seconds from its start until everything answered."""

    @property
    def grpc_url(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}"

    @property
    def tritonserver(self) -> psutil.Process:
        return next(p for p in psutil.Process(self.process.pid).children() if "tritonserver" in p.name())

    @property
    def stubs(self) -> dict[str, psutil.Process]:
        """The process of each step."""
        found = {}
        for process in self.tritonserver.children():
            with suppress(psutil.Error):  # one that was killed, and not yet forgotten
                found[Path(process.cmdline()[1]).parents[1].name] = process
        return found

    def health(self) -> dict[str, Any]:
        """Return what `/healthz` says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/healthz", timeout=10) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())
        except OSError:
            return {"ready": False, "deployments": {}}

    def wait_until_ready(self, timeout_s: float = 240.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.health()["ready"]:
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, f"not ready: {self.health()}\n{self.said.read_text()}"
            time.sleep(0.1)


@contextmanager
def serving(repository: Path, folder: Path, *flags: str) -> Iterator[Serving]:
    """Serve a repository until the block ends; yield once everything answers."""
    folder.mkdir(parents=True, exist_ok=True)
    http_port, grpc_port, metrics_port, health_port = free_ports(4)
    said, log = folder / "said", folder / "log"
    command = [sys.executable, "-m", "flagtriton_tools", "serve", "--repository", str(repository), *flags]
    ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "health": health_port}
    command += [f"--{name}-port={port}" for name, port in ports.items()]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    began = time.monotonic()
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--log-file", str(log)],
            stderr=output,
            start_new_session=True,
            preexec_fn=obey_ctrl_c,
            env=environment,
        )
    with ended(process):
        running = Serving(process, http_port, grpc_port, metrics_port, health_port, said, log)
        running.wait_until_ready()
        running.start_s = time.monotonic() - began
        yield running


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ask a process to end behind the block, and kill it where it has not within a minute."""
    with process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
