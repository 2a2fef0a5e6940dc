# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.tritonserver.machine`: what is said of shared memory and of the log's disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver import machine
from flagtriton_tools.tritonserver.machine import SHARED_MEMORY, check_room

MB = 1_000_000
LARGER = "give the container more with `docker run --shm-size 1g`, in Kubernetes with an emptyDir of medium Memory"
Free = Callable[..., list[Path]]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Return what sets how many bytes are free; what it returns names the folders that were looked at."""
    looked_at: list[Path] = []

    def set_free(*, memory: float = 1000 * MB, disk: float = 1000 * MB) -> list[Path]:
        def usage(path: Path) -> SimpleNamespace:
            looked_at.append(path)
            return SimpleNamespace(free=int(memory if path == SHARED_MEMORY else disk))

        monkeypatch.setattr(shutil, "disk_usage", usage)
        return looked_at

    return set_free


def test_where_there_is_room_nothing_is_said(free: Free, tmp_path: Path) -> None:
    free()
    assert check_room(20, tmp_path / "server.log") == []


def test_too_little_memory_for_the_models_is_refused_with_what_to_do(free: Free) -> None:
    free(memory=10.9 * MB)
    with pytest.raises(ToolError) as refused:
        check_room(10, None)
    assert str(refused.value) == f"/dev/shm has 10.9 MB free, and 10 models begin with 11.0 MB; {LARGER}"


def test_memory_that_is_just_enough_is_warned_of(free: Free) -> None:
    free(memory=11 * MB)
    assert check_room(10, None) == [f"warning: /dev/shm has only 11 MB free for tensors; {LARGER}"]


@pytest.mark.parametrize(("memory", "warnings"), [(256 * MB - 1, 1), (256 * MB, 0)])
def test_less_than_256_mb_for_tensors_is_warned_of(free: Free, memory: int, warnings: int) -> None:
    free(memory=memory)
    assert len(check_room(1, None)) == warnings


def test_a_machine_without_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "gone")
    with pytest.raises(ToolError, match=r"gone has 0\.0 MB free, and 1 models begin with 1\.1 MB"):
        check_room(1, None)


@pytest.mark.parametrize(("disk", "warned"), [(100 * MB - 1, True), (100 * MB, False)])
def test_less_than_100_mb_for_the_log_is_warned_of(free: Free, tmp_path: Path, disk: int, warned: bool) -> None:
    free(disk=disk)
    said = [f"warning: {tmp_path} has only 100 MB free for the log; make room, or --log-file"]
    assert check_room(1, tmp_path / "server.log") == (said if warned else [])


def test_the_disk_is_that_of_the_first_folder_that_is_there(free: Free, tmp_path: Path) -> None:
    looked_at = free()
    check_room(1, tmp_path / "not" / "yet" / "server.log")
    assert looked_at == [SHARED_MEMORY, tmp_path]


def test_a_relative_log_is_on_the_disk_of_this_folder(
    free: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    looked_at = free()
    check_room(1, Path("server.log"))
    assert looked_at == [SHARED_MEMORY, tmp_path]


def test_a_log_on_the_terminal_needs_no_disk(free: Free) -> None:
    looked_at = free(disk=0)
    assert check_room(1, None) == []
    assert looked_at == [SHARED_MEMORY]


def test_both_can_be_scarce(free: Free, tmp_path: Path) -> None:
    free(memory=20 * MB, disk=0)
    memory, log = check_room(1, tmp_path / "server.log")
    assert "/dev/shm has only 20 MB" in memory
    assert "has only 0 MB free for the log" in log
