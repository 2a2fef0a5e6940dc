# SPDX-License-Identifier: Apache-2.0
"""The picture of a soak."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from flagtriton_tools.pictures import saved_axes
from tests.robustness.soak.samples import JUDGED, Sample

__all__ = ["draw"]

_LABELS = {
    "rss_mb": "resident",
    "pss_mb": "proportional",
    "files": "open files",
    "threads": "threads",
    "shm_mb": "/dev/shm",
}


def draw(samples: Sequence[Sample], picture: Path, most_growth: float) -> Path:
    """Write a picture of what the server held, of its pace and of latencies; return its path."""
    minutes = np.array([sample.seconds for sample in samples]) / 60
    quarter = int(np.searchsorted(minutes, minutes[-1] / 4))
    with saved_axes(picture, size=(9, 11), rows=4, sharex=True) as (change, memory, pace, latency):
        for name in JUDGED:
            values = np.array([float(getattr(sample, name)) for sample in samples])
            if values[quarter]:
                change.plot(minutes, 100 * (values / values[quarter] - 1), label=_LABELS[name])
        change.axhspan(-100 * most_growth, 100 * most_growth, color="#dddddd", zorder=0)
        change.axvline(minutes[quarter], color="#888888", linestyle=":")
        change.set(ylabel="% off the first quarter's end", title="What the server's processes hold")
        change.legend(ncols=5, fontsize="small")
        memory.plot(minutes, [sample.rss_mb / 1024 for sample in samples], label="server, resident")
        memory.plot(minutes, [sample.pss_mb / 1024 for sample in samples], label="server, proportional")
        memory.plot(minutes, [sample.client_mb / 1024 for sample in samples], label="client")
        memory.set(ylabel="GB", ylim=(0, None))
        memory.legend(fontsize="small")
        pace.plot(minutes[1:], [_per_s(one, other) for one, other in pairwise(samples)], color="#4c72b0")
        pace.set(ylabel="requests a second", ylim=(0, None))
        for name, label in (("p50_ms", "median"), ("p99_ms", "99 of 100")):
            latency.plot(minutes, [getattr(sample, name) or np.nan for sample in samples], label=label)
        latency.set(xlabel="minutes", ylabel="a call of the SDK, ms", yscale="log")
        latency.legend(fontsize="small")
    return picture


def _per_s(one: Sample, other: Sample) -> float:
    return (other.requests - one.requests) / max(1e-9, other.seconds - one.seconds)
