# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.serve.startup`: processes that die before Triton watches them, and failures in its log."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flagtriton_tools.serve.launcher import ServerStoppedError, running_server
from flagtriton_tools.serve.startup import StartUp
from tests.support.servers.program import options_for

PARENT = """
import subprocess, sys
child = subprocess.Popen(["sh", "-c", sys.argv[1]])
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent_of() -> Iterator[Callable[[str], int]]:
    """Yield what starts a process that starts another, which runs a command, and never reaps it."""
    started = []

    def start(command: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.communicate()


def said(start_up: StartUp, clock: list[float], seconds: float) -> str | None:
    """Return what it says once it has looked for so many seconds of its clock."""
    lost = start_up.lost()
    end = clock[0] + seconds
    while lost is None and clock[0] < end:
        clock[0] += 0.5
        lost = start_up.lost()
    return lost


def zombies(parent: int) -> bool:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text("utf-8").split()
    return all(Path(f"/proc/{child}/stat").read_text("utf-8").split()[2] == "Z" for child in children)


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("exit 127", "a step's process ended with code 127"),
        (f"kill -{signal.SIGABRT.value} $$", "a step's process was ended by SIGABRT"),
    ],
)
def test_a_process_that_stays_a_zombie_is_lost(parent_of: Callable[[str], int], command: str, end: str) -> None:
    pid, clock = parent_of(command), [0.0]
    deadline = time.monotonic() + 30
    while not zombies(pid):
        assert time.monotonic() < deadline
    start_up = StartUp(pid, None, 0, ["tiny_encoder"], lambda: clock[0])
    assert said(start_up, clock, 3.5) is None  # Triton may reap it yet
    assert said(start_up, clock, 1) == f"{end} before the model was loaded: tiny_encoder"


def test_a_process_that_lives_is_not_lost(parent_of: Callable[[str], int]) -> None:
    clock = [0.0]
    assert said(StartUp(parent_of("cat"), None, 0, ["tiny"], lambda: clock[0]), clock, 60) is None


def test_failures_are_read_from_the_log_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("E1 x.cc:1] \"failed to load 'old' version 1: Internal: of the server before\"\n", "utf-8")
    start_up = StartUp(1, log, log.stat().st_size, ["a", "b"])
    assert start_up.failures() == {}
    with log.open("a", encoding="utf-8") as more:
        more.write("I1 x.cc:1] \"successfully loaded 'b'\"\nE1 x.cc:2] \"failed to load 'a' version 1: Inter")
        more.flush()
        assert start_up.failures() == {}  # half of a line
        more.write('nal: OSError: no such checkpoint"\n')
    assert start_up.failures() == {"a": "Internal: OSError: no such checkpoint"}
    assert start_up.failures() == {}


def test_a_server_that_waits_for_a_dead_process_is_ended_with_what_the_steps_said(tmp_path: Path) -> None:
    source = (
        "#!/bin/sh\necho 'I1121 loading' >&2\nsh -c 'echo what: stol >&2; kill -ABRT $$' &\nexec tail -f /dev/null\n"
    )
    began = time.monotonic()
    with pytest.raises(ServerStoppedError) as stopped, running_server(options_for(tmp_path, source)):
        raise AssertionError("this server must not get ready")
    assert time.monotonic() - began < 25  # of the ready timeout of 30
    first, *rest = str(stopped.value).splitlines()
    assert first.startswith(
        "a step's process was ended by SIGABRT before the model was loaded: tiny; Triton would wait"
    )
    assert "  what: stol" in rest
    assert not [line for line in rest if "I1121" in line]
