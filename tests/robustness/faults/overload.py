# SPDX-License-Identifier: Apache-2.0
"""More requests than a server can answer, and queries beside a corpus job."""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from tritonclient.grpc import service_pb2

from flagtriton.protocol.text import text_tensor
from tests.robustness.faults.callers import texts
from tests.robustness.faults.serving import DEMO, Serving, serving

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CHANNELS = 4
_CLOSED_LOOP = 48
_CALM = 0.3  # of what the server can answer
_BULK = """
import sys
from flagtriton import FlagModel
from tests.robustness.faults.callers import texts
corpus = texts(2000, seed=3)
with FlagModel({name!r}, url={url!r}, use_fp16=False, pooling_method="mean", show_progress=False) as model:
    while True:
        model.encode(corpus)
        print(len(corpus), flush=True)
"""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """One request: when it was sent, how long it took, seconds, and whether it was answered; else it was refused."""

    at: float
    seconds: float
    accepted: bool


def overload(repository: Path, folder: Path, *, seconds: float, rounds: int, report: Report) -> dict[str, Any]:
    """Send as much as the server can answer, four times as much, and little again; the medians of some rounds."""
    with serving(repository, folder, "--load", DEMO) as server:
        return asyncio.run(_overload(server, seconds, rounds, report))


async def _overload(server: Serving, seconds: float, rounds: int, report: Report) -> dict[str, Any]:
    requests = [_request(" ".join(text.split()[:1] + ["model"] * 60)) for text in texts(200, seed=2)]
    async with _channels(server.grpc_url) as send:
        await _closed_loop(send, requests, 3)
        capacity = await _closed_loop(send, requests, seconds / 2)
        report(f"capacity: {capacity:.0f} requests a second")
        calm_p50 = _percentile(await _open_loop(send, requests, _CALM * capacity, seconds / 2), 50)
        report(f"calm: p50 {calm_p50:.1f} ms")
        measured = []
        for _ in range(rounds):
            measured.append(await _storm(server, send, requests, capacity, calm_p50, seconds))
            report(", ".join(f"{name} {figure:.0f}" for name, figure in measured[-1].items()))
    medians = {name: statistics.median(each[name] for each in measured) for name in measured[0]}
    return {"capacity_per_s": capacity, "calm_p50_ms": calm_p50, **medians, "rounds": measured}


async def _storm(
    server: Serving,
    send: Callable[[bytes], Any],
    requests: Sequence[bytes],
    capacity: float,
    calm_p50: float,
    seconds: float,
) -> dict[str, float]:
    """Return what one storm does, behind as much as the server can answer, and before little."""
    saturated = await _open_loop(send, requests, capacity, seconds)
    before_mb = _resident_mb(server)
    storm = await _open_loop(send, requests, 4 * capacity, seconds)
    after_mb = _resident_mb(server)
    ended = time.monotonic()
    again = await _open_loop(send, requests, _CALM * capacity, seconds / 2)
    return {
        "saturated_p99_ms": _percentile(saturated, 99),
        "saturated_refused": sum(not sample.accepted for sample in saturated),
        "storm_sent": len(storm),
        "storm_refused": sum(not sample.accepted for sample in storm),
        "accepted_p99_ms": _percentile(storm, 99),
        "refused_p50_ms": _percentile(storm, 50, accepted=False),
        "refused_p99_ms": _percentile(storm, 99, accepted=False),
        "back_to_normal_s": _back_to_normal(again, ended, calm_p50),
        "memory_before_mb": before_mb,
        "memory_after_mb": after_mb,
    }


def beside_bulk(repository: Path, folder: Path, *, seconds: float, rounds: int, report: Report) -> dict[str, Any]:
    """Send short queries at a steady pace, in turn alone and beside a process that embeds a corpus."""
    ratios, alone_p99, beside_p99, bulk_rates = [], [], [], []
    with serving(repository, folder, "--load", DEMO) as server:
        queries = [_request(" ".join(text.split()[:8])) for text in texts(200, seed=4)]

        async def measured() -> list[Sample]:
            async with _channels(server.grpc_url) as send:
                await _open_loop(send, queries, 10, 1)
                return await _open_loop(send, queries, 20, seconds)

        for _ in range(rounds):
            alone = asyncio.run(measured())
            with _bulk_job(server) as texts_done:
                began, before = time.monotonic(), texts_done()
                beside = asyncio.run(measured())
                bulk_rates.append((texts_done() - before) / (time.monotonic() - began))
            alone_p99.append(_percentile(alone, 99))
            beside_p99.append(_percentile(beside, 99))
            ratios.append(beside_p99[-1] / alone_p99[-1])
            report(
                f"p50 {_percentile(alone, 50):.1f} -> {_percentile(beside, 50):.1f} ms, "
                f"p99 {alone_p99[-1]:.1f} -> {beside_p99[-1]:.1f} ms ({ratios[-1]:.2f}), "
                f"bulk {bulk_rates[-1]:.0f} texts/s, refused {sum(not s.accepted for s in beside)}"
            )
    return {
        "p99_ratio": statistics.median(ratios),
        "p99_ratios": ratios,
        "alone_p99_ms": alone_p99,
        "beside_p99_ms": beside_p99,
        "bulk_texts_per_s": bulk_rates,
    }


class _channels:  # noqa: N801 - used as a function
    """Yield a coroutine function that sends one serialised request and says how it went."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("grpc://")

    async def __aenter__(self) -> Callable[[bytes], Any]:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._open = [grpc.aio.insecure_channel(self._address, options) for _ in range(_CHANNELS)]
        calls = [channel.unary_unary(_METHOD) for channel in self._open]
        turn = iter(range(sys.maxsize))

        async def send(request: bytes) -> Sample:
            began = time.monotonic()
            try:
                await calls[next(turn) % _CHANNELS](request, timeout=60)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, f"{error.code().name}: {error.details()}"
                return Sample(began, time.monotonic() - began, False)
            return Sample(began, time.monotonic() - began, True)

        return send

    async def __aexit__(self, *_: object) -> None:
        for channel in self._open:
            await channel.close()


async def _closed_loop(send: Callable[[bytes], Any], requests: Sequence[bytes], seconds: float) -> float:
    """Return the answers a second that some callers get who wait for each."""
    stop = time.monotonic() + seconds

    async def caller(number: int) -> int:
        answered = 0
        while time.monotonic() < stop:
            answered += (await send(requests[(number + answered) % len(requests)])).accepted
        return answered

    return sum(await asyncio.gather(*map(caller, range(_CLOSED_LOOP)))) / seconds


async def _open_loop(
    send: Callable[[bytes], Any], requests: Sequence[bytes], per_s: float, seconds: float
) -> list[Sample]:
    """Send requests at random moments, whether or not earlier ones are answered; return all, in order."""
    rng = random.Random(5)
    tasks = []
    due = time.monotonic()
    stop = due + seconds
    while due < stop:
        due += rng.expovariate(per_s)
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(send(rng.choice(requests))))
    return list(await asyncio.gather(*tasks))


@contextmanager
def _bulk_job(server: Serving) -> Iterator[Callable[[], int]]:
    """Embed a corpus again and again in another process; yield what tells how many texts are done."""
    executions = f"/v2/models/{DEMO}_encoder/stats"
    code = _BULK.format(name=DEMO, url=server.grpc_url)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        job.stdout.readline()  # once the first round is done

        def done() -> int:
            import json
            import urllib.request

            with urllib.request.urlopen(server.http_url + executions, timeout=10) as reply:
                return int(json.loads(reply.read())["model_stats"][0]["inference_count"])

        try:
            yield done
        finally:
            job.kill()


def _request(text: str) -> bytes:
    tensor = text_tensor([text])
    request = service_pb2.ModelInferRequest(model_name=DEMO)
    request.inputs.add(name="text", datatype="BYTES", shape=tensor.shape)
    request.outputs.add(name="dense_vecs")
    encoded = text.encode()
    request.raw_input_contents.append(len(encoded).to_bytes(4, "little") + encoded)
    return request.SerializeToString()


def _percentile(samples: Sequence[Sample], percent: float, *, accepted: bool = True) -> float:
    """Return a percentile of the seconds of those that were accepted, or refused, in ms; 0 where there is none."""
    taken = [sample.seconds * 1e3 for sample in samples if sample.accepted is accepted]
    return float(np.percentile(taken, percent)) if taken else 0.0


def _back_to_normal(samples: Sequence[Sample], ended: float, calm_p50: float) -> float:
    """Return the seconds after which a second's median was no more than half above the calm one's."""
    for second in range(60):
        window = [s for s in samples if s.accepted and second <= s.at - ended < second + 1]
        if window and _percentile(window, 50) <= 1.5 * calm_p50:
            return float(second + 1)
    return float("inf")


def _resident_mb(server: Serving) -> float:
    processes = [server.tritonserver, *server.tritonserver.children(recursive=True)]
    return sum(process.memory_info().rss for process in processes if psutil.pid_exists(process.pid)) / 1e6
