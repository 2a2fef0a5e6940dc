# SPDX-License-Identifier: Apache-2.0
"""What is done to a server under load, and what must then be true. Each returns plain data and asserts nothing."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flagtriton import FlagModel
from flagtriton.errors import FlagTritonError
from flagtriton_tools.repository.store import entries
from tests.robustness.faults.callers import callers, summary, texts
from tests.robustness.faults.serving import TINY, Serving, serving

__all__ = ["drain_under_load", "kill_server", "kill_stubs", "stop_under_load"]

Report = Callable[[str], None]

_REFUSALS = ("has no available versions", "unknown model", "not found", "refused", "failed to connect")
"""How a server says that it takes no request, or that it is gone: the request was never accepted."""


def kill_stubs(
    server: Serving,
    repository: Path,
    *,
    every_s: float,
    kills: int,
    threads: int,
    seed: int,
    report: Report,
    request_timeout_s: float = 60.0,
) -> dict[str, Any]:
    """Kill a random model process now and then under callers of three deployments."""
    rng = random.Random(seed)
    recoveries: list[dict[str, Any]] = []
    killed: dict[str, list[float]] = {}
    owners = {step: entry.name for entry in entries(repository) for step in entry.steps}
    with callers(server.grpc_url, threads, request_timeout_s=request_timeout_s) as running:
        time.sleep(3)
        for _ in range(kills):
            began = time.monotonic()
            step, process = rng.choice(sorted(server.stubs.items()))
            recovery_s = _killed_and_back(server, owners[step], process.pid)
            killed.setdefault(owners[step], []).append(began)
            others = [
                f"{caller.name}: {failed.reason}"
                for caller in running
                for failed in caller.transport.failures
                if caller.name != owners[step]
                and failed.ended >= began
                # A request that a process took with it fails at its own deadline, a minute later.
                and not any(failed.began <= own <= failed.ended for own in killed.get(caller.name, ()))
            ]
            recoveries.append({"step": step, "seconds": recovery_s, "failures_of_others": others})
            report(f"{step}: back after {recovery_s:.1f} s, failures of other deployments: {sorted(set(others)) or 0}")
            time.sleep(max(0.0, every_s - (time.monotonic() - began)))
    return {"recoveries": recoveries, **summary(running)}


def kill_server(server: Serving, *, count: int, report: Report) -> dict[str, Any]:
    """Kill tritonserver in the middle of one `encode` of many texts."""
    corpus = texts(count, seed=1)
    with FlagModel(TINY, url=server.grpc_url, use_fp16=False, pooling_method="cls", show_progress=False) as model:
        began = time.monotonic()
        expected = np.asarray(model.encode(corpus, batch_size=32))
        undisturbed_s = time.monotonic() - began
        report(f"undisturbed: {undisturbed_s:.1f} s")
        timer = threading.Timer(undisturbed_s / 2, server.tritonserver.kill)
        timer.start()
        began = time.monotonic()
        answer = np.asarray(model.encode(corpus, batch_size=32))
        disturbed_s = time.monotonic() - began
        timer.cancel()
    restarts = server.health()["restarts"]
    report(f"killed half-way: {disturbed_s:.1f} s, {restarts} restart")
    return {
        "texts": count,
        "restarts": restarts,
        "undisturbed_s": undisturbed_s,
        "disturbed_s": disturbed_s,
        "largest_difference": float(np.abs(answer - expected).max()),
        "shape_is_right": answer.shape == expected.shape,
    }


def stop_under_load(repository: Path, folder: Path, *, times: int, threads: int, report: Report) -> dict[str, Any]:
    """Send SIGTERM under load, again and again; tell refusals from requests that were accepted and not answered."""
    stops = []
    for number in range(times):
        with serving(repository, folder / str(number), "--load", TINY) as server:
            stops.append(drain_under_load(server, threads=threads, after_s=1 + random.Random(number).random()))
        report("exit code {exit_code} after {seconds:.1f} s; {answered} answered, lost: {lost}".format(**stops[-1]))
    return {"stops": stops}


def drain_under_load(server: Serving, *, threads: int, after_s: float) -> dict[str, Any]:
    """Send SIGTERM under load of both wires; return its exit code, seconds, answers and what was lost, by message."""
    seen: Counter[str] = Counter()
    workers = [
        threading.Thread(target=_until_refused, args=(url, seen), daemon=True)
        for url in [server.grpc_url, server.http_url] * (threads // 2)
    ]
    for worker in workers:
        worker.start()
    time.sleep(after_s)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(60)
    seconds = time.monotonic() - began
    for worker in workers:
        worker.join(60)
    lost = {said: n for said, n in seen.items() if said not in ("answered", "refused")}
    return {"exit_code": code, "seconds": seconds, "answered": seen["answered"], "lost": lost}


def _killed_and_back(server: Serving, deployment: str, pid: int) -> float:
    """Kill a process and return the seconds until its deployment answers again."""
    before = server.health()["deployments"][deployment]["recoveries"]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while time.monotonic() < began + 120:
        standing = server.health()["deployments"].get(deployment, {})
        if standing.get("recoveries", 0) > before and standing["state"] == "ready":
            return time.monotonic() - began
        time.sleep(0.05)
    raise AssertionError(f"{deployment} did not come back: {server.said.read_text()}")


def _until_refused(url: str, seen: Counter[str]) -> None:
    with FlagModel(TINY, url=url, use_fp16=False, pooling_method="cls", retries=0, show_progress=False) as model:
        while True:
            try:
                model.encode("a quick brown fox")
                seen["answered"] += 1
            except FlagTritonError as error:
                text = str(error).lower()
                seen["refused" if any(word in text for word in _REFUSALS) else str(error)] += 1
                return
            except Exception as error:  # anything else is a finding, too
                seen[repr(error)] += 1
                return
