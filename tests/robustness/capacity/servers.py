# SPDX-License-Identifier: Apache-2.0
"""Several real servers on one machine, each with its own part of a core: as independent as on several machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from flagtriton_tools.demo import minilm_checkpoint
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.facts import inspect_checkpoint
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.repository.store import add_models
from tests.robustness.faults.serving import Serving, serving

__all__ = ["NAME", "running_servers"]

NAME = "all-MiniLM-L6-v2"

_CGROUPS = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 10_000


@contextmanager
def running_servers(count: int, share: float, folder: Path) -> Iterator[list[Serving]]:
    """Yield servers of the real MiniLM, each with so much of a core, on the machine's cores in turn.

    Needs root, and cgroups of version 1.
    """
    options = AddOptions(name=NAME, pool_in_encoder=True)
    add_models(build(inspect_checkpoint(str(minilm_checkpoint())), options), folder / "repository")
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        running = []
        for number in range(count):
            os.sched_setaffinity(0, {cores[number % len(cores)]})  # its processes inherit that
            try:
                running.append(stack.enter_context(serving(folder / "repository", folder / f"server-{number}")))
            finally:
                os.sched_setaffinity(0, cores)
        for number, server in enumerate(running):
            stack.enter_context(_limited(server, f"flagtriton_{os.getpid()}_{number}", share))
        yield running
        for server in running:
            server.process.terminate()


@contextmanager
def _limited(server: Serving, name: str, share: float) -> Iterator[None]:
    group = _CGROUPS / name
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(round(_PERIOD_US * share)))
        process = psutil.Process(server.process.pid)
        for each in (process, *process.children(recursive=True)):
            (group / "cgroup.procs").write_text(str(each.pid))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (_CGROUPS / "cgroup.procs").write_text(pid)
        group.rmdir()
