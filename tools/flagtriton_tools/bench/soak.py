# SPDX-License-Identifier: Apache-2.0
"""Samples pace and memory during one very long `encode`, to show whether both stay constant."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton_tools.bench.peers.deployment_under_test import Ours
from flagtriton_tools.bench.peers.memory import held_mb
from flagtriton_tools.pictures import saved_axes

__all__ = ["Sample", "draw_soak", "soak", "summary"]


@dataclass(frozen=True)
class Sample:
    """State of the call at one moment.

    Attributes:
        seconds: time since the start.
        done: number of texts answered.
        tokens: tokens of those texts. The SDK sends long texts first, so the number of texts per second always rises.
        server_mb: resident memory of all processes of the server, MB.
        client_mb: resident memory of this process, MB. It includes the result, 4 * D bytes for each answered text.
    """

    seconds: float
    done: int
    tokens: int
    server_mb: float
    client_mb: float


def soak(ours: Ours, count: int, lengths: NDArray[np.int32], server_pid: int, every_s: float = 2.0) -> list[Sample]:
    """Embed `count` texts in one call; return the samples in order, with the end of the call last.

    Args:
        ours: deployment, whose texts are repeated.
        count: number of texts of the call.
        lengths: `[B]` tokens of each of the deployment's texts.
        server_pid: process id of the server.
        every_s: interval between samples, seconds.
    """
    samples: list[Sample] = []
    tokens_sent = np.cumsum(np.sort(np.resize(lengths, count))[::-1], dtype=np.int64)  # longest first
    start = time.perf_counter()

    def look(done: int) -> None:
        client_mb = held_mb(os.getpid(), children=False)
        tokens = int(tokens_sent[done - 1]) if done else 0
        samples.append(Sample(time.perf_counter() - start, done, tokens, held_mb(server_pid), client_mb))

    before = ours.answered()
    with _every(every_s, lambda: look(ours.answered() - before)):
        result = ours.repeat(count)
    look(len(result))  # the result is still in memory here
    return samples


def summary(samples: Sequence[Sample], settled: int) -> dict[str, Any]:
    """Return the pace of the first and last third, and the least and most memory once `settled` texts were done."""
    after = [sample for sample in samples if sample.done >= settled] or list(samples[-1:])
    moving = [sample for sample in samples if sample.done > 0]  # the wait for the first answer does not count
    third = len(moving) // 3
    return {
        "texts": samples[-1].done,
        "seconds": samples[-1].seconds,
        "tokens_per_s_first_third": _pace(moving[0], moving[third]),
        "tokens_per_s_last_third": _pace(moving[-third - 1], moving[-1]),
        "server_mb": [min(s.server_mb for s in after), max(s.server_mb for s in after)],
        "client_mb": [min(s.client_mb for s in after), max(s.client_mb for s in after)],
        "samples": [asdict(sample) for sample in samples],
    }


def draw_soak(samples: Sequence[Sample], picture: Path) -> Path:
    """Draw pace and memory over the call; return the path of the picture."""
    with saved_axes(picture, size=(8, 6), rows=2, sharex=True) as (upper, lower):
        done = [sample.done for sample in samples]
        paces = [_pace(a, b) for a, b in pairwise(samples)]
        upper.plot(done[1:], paces, color="#4c72b0")
        upper.set(ylabel="tokens a second", ylim=(0, None))
        lower.plot(done, [sample.server_mb for sample in samples], label="server, all processes")
        lower.plot(done, [sample.client_mb for sample in samples], label="client, the result included")
        lower.set(xlabel="texts done", ylabel="MB resident", ylim=(0, None))
        lower.legend()
    return picture


def _pace(first: Sample, last: Sample) -> float:
    return (last.tokens - first.tokens) / max(1e-9, last.seconds - first.seconds)


@contextmanager
def _every(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Call `work` at once and then at each interval, in a thread, until the block ends."""
    stopped = threading.Event()

    def loop() -> None:
        work()
        while not stopped.wait(seconds):
            work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
