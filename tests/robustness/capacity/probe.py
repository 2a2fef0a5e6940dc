# SPDX-License-Identifier: Apache-2.0
"""How fast the machine is while something is measured: a virtual machine's cores are others' as well.

Run by itself it does the same few products of matrices again and again, and tells what processor time they took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["Probe", "probing"]

_EVERY_S = 0.25
_ROWS, _WIDTH, _INNER = 64, 384, 1536  # of a layer of MiniLM


class Probe:
    """What the probes of all cores have told: moments, and the seconds that the same work took."""

    def __init__(self) -> None:
        self._told: list[tuple[float, float]] = []

    def add(self, moment: float, seconds: float) -> None:
        """Note that at a moment, by the monotonic clock, the work took so many seconds."""
        self._told.append((moment, seconds))

    def seconds_between(self, begin: float, end: float) -> float:
        """Return what the work took, the mean of an interval; nan where nothing was told."""
        own = [seconds for moment, seconds in self._told if begin <= moment <= end]
        return float(np.mean(own)) if own else float("nan")


@contextmanager
def probing() -> Iterator[Probe]:
    """Run a probe on each core of this process while the block runs; they take one part in a hundred of them."""
    probe = Probe()
    command = [sys.executable, "-m", "tests.robustness.capacity.probe"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([*command, str(core)], env=environment, stdout=subprocess.PIPE, text=True)
        for core in sorted(os.sched_getaffinity(0))
    ]
    readers = [threading.Thread(target=_read, args=(process, probe), daemon=True) for process in processes]
    for reader in readers:
        reader.start()
    try:
        yield probe
    finally:
        for process in processes:
            process.kill()
        for process, reader in zip(processes, readers, strict=True):
            process.wait()
            reader.join()


def _read(process: subprocess.Popen[str], probe: Probe) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            moment, seconds = map(float, line.split())
            probe.add(moment, seconds)


def _work() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    rows, weights = np.ones((_ROWS, _WIDTH), np.float32), np.ones((_WIDTH, _INNER), np.float32)
    while True:
        began = time.thread_time()
        for _ in range(3):
            _ = rows @ weights
        print(time.monotonic(), time.thread_time() - began, flush=True)  # noqa: T201 - for who reads it
        time.sleep(_EVERY_S)


if __name__ == "__main__":
    _work()
