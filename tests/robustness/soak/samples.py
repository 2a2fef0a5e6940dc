# SPDX-License-Identifier: Apache-2.0
"""How a server stands every few seconds, and whether something of it only ever grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from tests.robustness.fuzz.processes import holdings
from tests.robustness.soak.load import Load

__all__ = ["JUDGED", "Sample", "growth", "samples_of", "summary"]

JUDGED = ("rss_mb", "pss_mb", "files", "threads", "shm_mb")
"""What must not grow; the client's own memory is shown beside it."""

_FIRST_PART = 0.25
"""Of the time, which is left to the server to come to rest."""


@dataclass(frozen=True)
class Sample:
    """How things stood at one moment.

    Attributes:
        seconds: since the start.
        rss_mb: resident, of all the server's processes; `pss_mb` counts what they share once.
        files: open descriptors of all of them, less one for every connection that this process keeps to them.
        threads: of all of them.
        shm_mb: their blocks in `/dev/shm`.
        client_mb: resident, of this process, which calls.
        requests: calls and malformed requests so far.
        errors: wrong answers and unexpected exceptions so far.
        p50_ms: of the calls since the last sample; likewise `p99_ms`; None where there were none.
    """

    seconds: float
    rss_mb: float
    pss_mb: float
    files: int
    threads: int
    shm_mb: float
    client_mb: float
    requests: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None


def samples_of(load: Load, pid: int, seconds: float, every_s: float) -> Iterator[Sample]:
    """Yield a sample every so often, for so long."""
    start = time.monotonic()
    due = start
    while time.monotonic() < start + seconds:
        due += every_s
        time.sleep(max(0.0, due - time.monotonic()))
        yield _sample(load, pid, time.monotonic() - start)


def growth(samples: Sequence[Sample], name: str) -> float:
    """Return by what part something grew from the end of the first quarter to the end.

    It is the line through the samples with the median of all slopes between two (Theil and Sen), so that neither a
    moment's connections nor one high sample counts.
    """
    last = samples[-1].seconds
    kept = [sample for sample in samples if sample.seconds >= last * _FIRST_PART]
    seconds = np.array([sample.seconds for sample in kept])
    values = np.array([float(getattr(sample, name)) for sample in kept])
    earlier, later = np.triu_indices(len(kept), k=1)
    if not len(earlier):
        return 0.0
    slope = float(np.median((values[later] - values[earlier]) / (seconds[later] - seconds[earlier])))
    level = float(np.median(values - slope * (seconds - seconds[0])))
    return slope * float(seconds[-1] - seconds[0]) / level if level else 0.0


def summary(samples: Sequence[Sample], load: Load) -> dict[str, Any]:
    """Return what a soak came to, for `soak.json`."""
    return {
        "seconds": samples[-1].seconds,
        "requests": samples[-1].requests,
        "requests_per_s": samples[-1].requests / samples[-1].seconds,
        "done": dict(load.tally.done),
        "wrong": load.tally.wrong,
        "errors": load.tally.errors,
        "growth": {name: growth(samples, name) for name in (*JUDGED, "client_mb")},
        "samples": [asdict(sample) for sample in samples],
    }


def _connections() -> int:
    """Return how many connections this process has, each of which is an open file of the server's, too."""
    kept = psutil.Process().net_connections(kind="tcp")
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in kept)


def _sample(load: Load, pid: int, seconds: float) -> Sample:
    held, tally, latencies = holdings(pid, pss=True), load.tally, load.taken_latencies_s()
    p50, p99 = np.percentile(latencies, [50, 99]) * 1_000 if latencies else (None, None)
    return Sample(
        seconds,
        held.all_rss_mb,
        held.pss_mb,
        held.all_files - _connections(),
        held.threads,
        held.shm_mb,
        psutil.Process().memory_info().rss / 2**20,
        sum(tally.done.values()),
        len(tally.wrong) + len(tally.errors),
        None if p50 is None else float(p50),
        None if p99 is None else float(p99),
    )
