# SPDX-License-Identifier: Apache-2.0
"""Measures the present and the peak memory of a process tree."""

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
            continue  # the process has ended since
    return peaks


def held_mb(pid: int, *, children: bool = True) -> float:
    """Return the present resident set of a process and its descendants, in MB. Each process counts shared pages."""
    processes = _tree(pid) if children else [psutil.Process(pid)]
    return float(sum(process.memory_info().rss for process in processes)) / _MB


class PeakMemory:
    """Peak memory of a process and its descendants together while they are watched, in MB.

    Pages that several of them share count once, because their proportional set sizes are added. So a server of many
    processes and a program of one can be compared. A single process counts with its resident set. Pages that it shares
    with unrelated processes then count in full, such as those of one mapped checkpoint. It needs them in any case.

    Args:
        pid: process id; None, for a process on another machine, measures 0.
    """

    def __init__(self, pid: int | None) -> None:
        self.mb = 0.0
        self._pid = pid

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sample the memory four times a second until the block ends."""
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
        return 0.0  # the process has ended since


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
