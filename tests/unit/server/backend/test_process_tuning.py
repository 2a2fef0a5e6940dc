# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.backend.process_tuning`: threads, how long they spin, and their priority."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flagtriton_server.backend import process_tuning

NICENESS = """
import os, threading
from flagtriton_server.backend.process_tuning import lower_priority
stop, was = threading.Event(), os.getpriority(os.PRIO_PROCESS, 0)
before = threading.Thread(target=stop.wait)
before.start()
worker = threading.Thread(target=lambda: (lower_priority(), after.start(), stop.wait()))
after = threading.Thread(target=stop.wait)
worker.start()
while not after.is_alive():
    pass
threads = threading.main_thread(), before, worker, after
print([os.getpriority(os.PRIO_PROCESS, thread.native_id) - was for thread in threads])
stop.set()
"""


def run(program: str, **environment: str) -> tuple[str, str]:
    """Return what a new process prints, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**environment}, timeout=60
    )
    return done.stdout, done.stderr


def test_a_process_gets_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tuning.os, "sched_getaffinity", lambda _: set(range(8)))
    assert process_tuning.threads_per_instance(3) == 2


def test_more_instances_than_cores_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tuning.os, "sched_getaffinity", lambda _: {0, 1})
    assert process_tuning.threads_per_instance(5) == 1


def test_all_threads_but_the_first_get_a_lower_priority_and_so_do_those_they_start() -> None:
    more = min(5, 19 - os.getpriority(os.PRIO_PROCESS, 0))  # there is no niceness above 19
    assert run(NICENESS)[0] == f"[0, {more}, {more}, {more}]\n"


SPINNING = """
from flagtriton_server.backend.process_tuning import limit_openmp_spinning
limit_openmp_spinning()
import torch
"""


def spins(**environment: str) -> str:
    """Return how long OpenMP's threads wait for work without sleeping, as it tells when torch has loaded it."""
    said = run(SPINNING, OMP_DISPLAY_ENV="verbose", **environment)[1]
    return next(line.split("'")[1] for line in said.splitlines() if "GOMP_SPINCOUNT" in line)


def test_threads_wait_for_the_next_operation_and_no_longer() -> None:
    assert spins() == "14000"


def test_who_says_otherwise_is_heard() -> None:
    assert spins(GOMP_SPINCOUNT="77") == "77"
    assert int(spins(OMP_WAIT_POLICY="active")) > 1_000_000


def test_importing_the_package_changes_no_environment() -> None:
    program = "import os; before = dict(os.environ); import flagtriton_server.backend; print(os.environ == before)"
    assert run(program)[0] == "True\n"
