# SPDX-License-Identifier: Apache-2.0
"""How much memory a tree of processes holds and has held."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

__all__ = ["held_mb", "tree_peaks_mb"]

_MB = 2**20


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
