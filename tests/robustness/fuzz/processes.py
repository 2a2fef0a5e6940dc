# SPDX-License-Identifier: Apache-2.0
"""What the processes of a server hold: which they are, memory, open files, threads, shared memory."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Holdings", "holdings", "settled_holdings"]

_MB = 2**20
_SHARED_MEMORY = Path("/dev/shm")
_SETTLE_WITHIN_S = 20.0


@dataclass(frozen=True)
class Holdings:
    """What a server's processes held at one moment.

    Attributes:
        processes: pid, start, and model or program of each.
        rss_mb: resident, by pid; shared pages count once for each.
        pss_mb: of all, shared pages counted once; 0 where it was not asked for.
        files: open descriptors, by pid.
        threads: of all.
        shm_mb: blocks in `/dev/shm` that are theirs.
    """

    processes: frozenset[tuple[int, float, str]]
    rss_mb: dict[int, float]
    pss_mb: float
    files: dict[int, int]
    threads: int
    shm_mb: float

    @property
    def all_rss_mb(self) -> float:
        """Resident, of all processes."""
        return sum(self.rss_mb.values())

    @property
    def all_files(self) -> int:
        """Open descriptors of all processes."""
        return sum(self.files.values())

    def name(self, pid: int) -> str:
        """Return which model or program a process runs."""
        return next((name for number, _, name in self.processes if number == pid), str(pid))


def holdings(pid: int, *, pss: bool = False) -> Holdings:
    """Return what the server with this process id, and its stubs, hold now.

    Args:
        pid: the server's own process.
        pss: sum proportional set sizes, too, which takes the kernel some time.
    """
    found: dict[int, tuple[float, str]] = {}
    rss, files, threads, proportional = {}, {}, 0, 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found[process.pid] = process.create_time(), _name(process)
            rss[process.pid] = process.memory_info().rss / _MB
            files[process.pid] = process.num_fds()
            threads += process.num_threads()
            proportional += process.memory_full_info().pss / _MB if pss else 0.0
    processes = frozenset((number, start, name) for number, (start, name) in found.items())
    return Holdings(processes, rss, proportional, files, threads, _shm_mb(pid))


def settled_holdings(pid: int, most_files: int | None = None) -> Holdings:
    """Return what they hold once closed connections are gone.

    Args:
        pid: the server's own process.
        most_files: wait until so few are open, for some seconds; None waits until the number stands still.
    """
    deadline = time.monotonic() + _SETTLE_WITHIN_S
    before, now = None, holdings(pid)
    while time.monotonic() < deadline:
        if now.all_files <= most_files if most_files is not None else now.all_files == before:
            break
        time.sleep(0.5)
        before, now = now.all_files, holdings(pid)
    return holdings(pid, pss=True)


def _name(process: psutil.Process) -> str:
    arguments = process.cmdline()
    step = next((Path(argument).parts[-3] for argument in arguments if argument.endswith("/1/model.py")), None)
    return step or process.name()


def _shm_mb(pid: int) -> float:
    """Return what the files in `/dev/shm` take whose prefix is on the server's command line."""
    prefix = re.search(r"shm-region-prefix-name=(\S+)", " ".join(psutil.Process(pid).cmdline()))
    if prefix is None:
        return 0.0
    taken = 0
    for file in _SHARED_MEMORY.glob(f"{prefix[1]}*"):
        with contextlib.suppress(FileNotFoundError):
            taken += file.stat().st_blocks * 512
    return taken / _MB
