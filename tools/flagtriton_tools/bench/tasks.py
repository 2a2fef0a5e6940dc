# SPDX-License-Identifier: Apache-2.0
"""Measures named tasks of contestants in turns: seconds, the encoder's clock, and memory for each task."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import urllib3
from rich.table import Table

from flagtriton_tools.bench.peers.deployment_under_test import Place
from flagtriton_tools.bench.peers.measure import compare
from flagtriton_tools.bench.peers.memory import PeakMemory

__all__ = ["OurTasks", "TaskResult", "measure_tasks", "task_table"]


class TaskContestant(Protocol):
    """A contestant that can run the tasks."""

    name: str
    pid: int | None  # process that does the work, or the parent of those that do; None on another machine

    def run(self, task: str) -> float:
        """Run one task; return its duration in seconds."""


class OurTasks(TaskContestant, Protocol):
    """A flagtriton deployment, which defines the tasks.

    Attributes:
        place: address of the deployment.
        tasks: tasks of all contestants.
        own_tasks: tasks of this deployment alone.
    """

    place: Place
    tasks: tuple[str, ...]
    own_tasks: tuple[str, ...]


@dataclass
class TaskResult:
    """Measurements of one contestant.

    Attributes:
        seconds: duration by task, one value for each round.
        encoder_s: seconds of flagtriton's encoder by task, one value for each round.
        peak_mb: most memory of all its processes together, by task, MB. Shared pages count once.
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    encoder_s: dict[str, list[float]] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as plain data."""
        return asdict(self)


def measure_tasks(
    ours: OurTasks, peers: Sequence[TaskContestant], *, rounds: int, report: Callable[[str], None]
) -> list[TaskResult]:
    """Return the results of all contestants, flagtriton's first. In each round all run each task in turn."""
    results = [TaskResult(each.name) for each in (ours, *peers)]
    for number in range(1, rounds + 1):
        for task in (*ours.tasks, *ours.own_tasks):
            for each, result in zip((ours, *peers), results, strict=True):
                if each is not ours and task in ours.own_tasks:
                    continue
                before, memory = encoder_clock_s(ours.place), PeakMemory(each.pid)
                with memory.watched():
                    result.seconds.setdefault(task, []).append(each.run(task))
                result.peak_mb[task] = max(memory.mb, result.peak_mb.get(task, 0.0))
                if each is ours:
                    result.encoder_s.setdefault(task, []).append(encoder_clock_s(ours.place) - before)
                report(f"round {number}/{rounds}: {each.name}: {task}: {result.seconds[task][-1]:.2f} s")
    return results


def task_table(results: Sequence[TaskResult], title: str) -> Table:
    """Return the results as a table. The first one is flagtriton's."""
    ours = results[0]
    table = Table("", "task", "seconds", "flagtriton is", "encoder", "peak MB", title=title)
    for result in results:
        for task, seconds in result.seconds.items():
            times, least, most = compare(ours.seconds[task], seconds)
            ratio = "" if result is ours else f"{times:.2f}x ({least:.2f} to {most:.2f})"
            clock = f"{statistics.median(result.encoder_s[task]):.2f} s" if result is ours else ""
            median, held = f"{statistics.median(seconds):.2f}", f"{result.peak_mb[task]:.0f}"
            table.add_row(result.name, task, median, ratio, clock, held)
    return table


def encoder_clock_s(place: Place) -> float:
    """Return the seconds that the encoder has computed since it was loaded, by Triton's clock; 0 if unknown."""
    if place.http_url is None:
        return 0.0
    url = f"{place.http_url}/v2/models/{place.model}_encoder/stats"
    batches = urllib3.request("GET", url).json()["model_stats"][0]["batch_stats"]
    return sum(int(batch["compute_infer"]["ns"]) for batch in batches) / 1e9
