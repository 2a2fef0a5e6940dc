# SPDX-License-Identifier: Apache-2.0
"""Peers of a deployment: libraries in separate processes, and other servers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import urllib3

from flagtriton_tools.bench.peers.callers import fan_out, seconds_of
from flagtriton_tools.bench.peers.memory import tree_peaks_mb
from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.options import free_ports

__all__ = ["Contestant", "infinity_server", "library", "peer_python"]

_PEER_WORKER = Path(__file__).with_name("peer_worker.py")
_INFINITY_BATCH = 64
_INFINITY_CALLERS = 8
_INFINITY_READY_S = 180.0


class Contestant(Protocol):
    """A contestant that embeds texts."""

    name: str
    serves: bool  # whether it can be measured with several callers at once

    def bulk(self) -> float:
        """Embed all texts; return the duration in seconds."""

    def query(self, text: str, repeats: int) -> list[float]:
        """Embed one short text `repeats` times; return the seconds of each call."""

    def callers(self, count: int) -> tuple[float, list[float]]:
        """Embed each text in a separate call from `count` callers; return the seconds of all, and of each call."""

    def peak_mb(self) -> dict[str, float]:
        """Return the peak memory of each of its processes, MB."""


class Library:
    """A library in a separate process with its own interpreter."""

    serves = False

    def __init__(self, kind: str, process: subprocess.Popen[str]) -> None:
        self.name = kind
        self._process = process
        self.pid = process.pid
        self._peak = 0.0
        ready = self._answer()
        if ready.get("batch_size"):
            self.name = f"{kind} (batch {ready['batch_size']})"

    def bulk(self) -> float:
        return float(self._ask({})["seconds"][0])

    def query(self, text: str, repeats: int) -> list[float]:
        return list(self._ask({"query": text, "repeats": repeats})["seconds"])

    def run(self, task: str) -> float:
        """Run one of the named tasks; return its duration in seconds."""
        return float(self._ask({"task": task})["seconds"][0])

    def callers(self, count: int) -> tuple[float, list[float]]:
        raise ToolError(f"{self.name} runs in-process and takes one call at a time")

    def peak_mb(self) -> dict[str, float]:
        return {self.name: self._peak}

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._peak = float(answer["peak_mb"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ToolError(f"{self.name} ended with code {self._process.wait()}; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def library(kind: str, options: Mapping[str, Any], python: str, texts_file: Path) -> Iterator[Library]:
    """Yield a library that is ready, and end its process afterwards.

    Args:
        kind: name of a contestant in `peer_worker.py`.
        options: options for loading the checkpoint.
        python: interpreter that has the library.
        texts_file: file with the texts as a JSON list.

    Raises:
        ToolError: the library does not load.
    """
    with subprocess.Popen(
        [python, str(_PEER_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({**options, "kind": kind, "texts": str(texts_file)}) + "\n")
            process.stdin.flush()
            yield Library(kind, process)
        finally:
            process.kill()


class InfinityServer:
    """HTTP server of Infinity, called as its users do."""

    serves = True

    def __init__(self, url: str, model: str, texts: Sequence[str], pid: int) -> None:
        self.name = "infinity"
        self._url, self._model, self._texts, self._pid = url, model, list(texts), pid
        self._http = urllib3.PoolManager(maxsize=256, retries=False, timeout=600.0)
        self.encode(self._texts[:_INFINITY_BATCH])

    def encode(self, texts: Sequence[str]) -> None:
        """Embed texts in one request.

        Raises:
            ToolError: the server refuses.
        """
        reply = self._http.request("POST", f"{self._url}/embeddings", json={"model": self._model, "input": list(texts)})
        if reply.status != 200:
            raise ToolError(f"infinity answered {reply.status}: {reply.data[:200]!r}")
        reply.json()  # parsing counts, as a caller needs the numbers

    def bulk(self) -> float:
        edges = pairwise([*range(0, len(self._texts), _INFINITY_BATCH), len(self._texts)])
        return fan_out(self.encode, [self._texts[a:b] for a, b in edges], _INFINITY_CALLERS)[0]

    def query(self, text: str, repeats: int) -> list[float]:
        return [seconds_of(self.encode, [text]) for _ in range(repeats)]

    def callers(self, count: int) -> tuple[float, list[float]]:
        return fan_out(lambda text: self.encode([text]), self._texts, count)

    def peak_mb(self) -> dict[str, float]:
        return tree_peaks_mb(self._pid)


@contextmanager
def infinity_server(checkpoint: str, device: str, python: str, texts: Sequence[str]) -> Iterator[InfinityServer]:
    """Yield Infinity's server with a loaded checkpoint, and stop it afterwards.

    Raises:
        ToolError: it is not installed, or does not become ready.
    """
    (port,) = free_ports(1)
    command = str(Path(python).with_name("infinity_emb"))
    arguments = ["v2", "--model-id", checkpoint, "--port", str(port), "--engine", "torch", "--no-bettertransformer"]
    arguments += ["--device", "cuda" if device == "gpu" else "cpu"]
    with subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/health", process)
            models = urllib3.request("GET", f"{url}/models").json()["data"]
            yield InfinityServer(url, models[0]["id"], texts, process.pid)
        finally:
            process.terminate()


def peer_python(kind: str, folder: Path) -> str:
    """Return the interpreter that has a peer: of the environment in `folder`, else this one.

    Raises:
        ToolError: neither has it.
    """
    own = folder / kind / "bin" / "python"
    if own.is_file():
        return str(own)
    module = {"flagembedding": "FlagEmbedding", "sentence-transformers": "sentence_transformers"}.get(kind)
    if kind == "raw" or (module and _has(module)):
        return sys.executable
    raise ToolError(f"{kind} is not installed; run tools/install_peer.sh {kind}, which puts it into {folder / kind}")


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _INFINITY_READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ToolError(f"infinity ended with code {process.returncode} before it was ready")
        try:
            if urllib3.request("GET", url, retries=False, timeout=2.0).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.2)
    raise ToolError(f"infinity was not ready within {_INFINITY_READY_S:.0f} s")
