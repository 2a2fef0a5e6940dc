# SPDX-License-Identifier: Apache-2.0
"""How much memory a tree of processes holds and has held."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["PeakMemory", "held_mb", "tree_peaks_mb"]

_MB = 2**20
_LOOK_EVERY_S = 0.25


def tree_peaks_mb(pid: int) -> dict[str, float]:
    """Return the peak resident set of a process and of each descendant, in MB (2^20 bytes), by model or program."""
    peaks: dict[str, float] = {}
    for process in _tree(pid):
        try:
            peaks[_name(process)] = _peak_mb(process.pid)
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile
    return peaks


def held_mb(pid: int, *, children: bool = True) -> float:
    """Return the resident set of a process and its descendants now, in MB; shared pages count once for each."""
    processes = _tree(pid) if children else [psutil.Process(pid)]
    return float(sum(process.memory_info().rss for process in processes)) / _MB


class PeakMemory:
    """The most memory that a process and its descendants have held together while they were watched, in MB.

    What several of them share counts once (their proportional set sizes are summed), so that a server of many
    processes and a program of one can be compared. A program of one is its resident set: what it shares with strangers,
    as two programs do that map one checkpoint, is its own need all the same.

    Args:
        pid: the process; None, for one on another machine, holds 0.
    """

    def __init__(self, pid: int | None) -> None:
        self.mb = 0.0
        self._pid = pid

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look four times a second until the block ends."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_EVERY_S):
            processes = [] if self._pid is None else _tree(self._pid)
            held = _proportional_mb if len(processes) > 1 else _resident_mb
            self.mb = max(self.mb, sum(map(held, processes)))


def _proportional_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / _MB
    except psutil.Error:
        return 0.0  # it has ended meanwhile


def _resident_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / _MB
    except psutil.Error:
        return 0.0


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    arguments = process.cmdline()
    step = next((Path(argument).parts[-3] for argument in arguments if argument.endswith("/1/model.py")), None)
    return f"{step or process.name()} ({process.pid})"


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(peak[1]) / 1024 if peak else 0.0
