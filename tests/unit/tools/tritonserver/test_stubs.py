# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.tritonserver.stubs`, with real processes that are called as Triton's are."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.tritonserver.stubs import instances, live_stubs, unhealthy_model

STUB = "/opt/backends/python/triton_python_backend_stub"


@contextmanager
def running(folder: Path, model: str, command: str = STUB, version: str = "1") -> Iterator[subprocess.Popen[bytes]]:
    """Run a child of this process that waits, under the name of a stub and with the arguments of one."""
    file = folder / model / version / "model.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("echo up; read _\n", encoding="utf-8")
    arguments = [command, str(file), "flagtriton_1_2_x", "1048576", "1048576", "1", f"{model}_0_0", "DEFAULT"]
    process = subprocess.Popen(arguments, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_processes_of_each_model_are_counted(tmp_path: Path) -> None:
    with (
        running(tmp_path, "m3_encoder"),
        running(tmp_path, "m3_encoder"),
        running(tmp_path, "m3_tokenizer"),
    ):
        assert live_stubs(os.getpid()) == {("m3_encoder", "1"): 2, ("m3_tokenizer", "1"): 1}


def test_those_of_another_version_are_counted_by_themselves(tmp_path: Path) -> None:
    with running(tmp_path, "m3_encoder"), running(tmp_path, "m3_encoder", version="2"):
        assert live_stubs(os.getpid()) == {("m3_encoder", "1"): 1, ("m3_encoder", "2"): 1}


def test_other_children_are_not_counted(tmp_path: Path) -> None:
    with running(tmp_path, "m3_encoder", "/bin/another_program"):
        assert live_stubs(os.getpid()) == {}


def test_a_model_without_a_process_counts_none(tmp_path: Path) -> None:
    with running(tmp_path, "m3_encoder"):
        assert live_stubs(os.getpid())["m3_tokenizer", "1"] == 0


def test_the_dead_are_not_counted_though_nobody_has_waited_for_them(tmp_path: Path) -> None:
    with running(tmp_path, "m3_encoder") as process, running(tmp_path, "m3_tokenizer"):
        process.kill()
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 20
        while stat.read_text().rpartition(") ")[2][0] != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stat.read_text().rpartition(") ")[2][0] == "Z"
        assert live_stubs(os.getpid()) == {("m3_tokenizer", "1"): 1}


def test_the_processes_of_another_server_are_not_counted(tmp_path: Path) -> None:
    with running(tmp_path, "m3_encoder") as other:
        assert live_stubs(other.pid) == {}


def test_a_server_that_is_gone_has_no_processes(tmp_path: Path) -> None:
    with running(tmp_path, "m3_encoder") as process:
        pass
    assert live_stubs(process.pid) == {}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"platform": "ensemble"}, 0),
        ({"backend": "onnxruntime", "instance_group": [{"count": 4}]}, 0),
        ({"backend": "python"}, 1),
        ({"backend": "python", "instance_group": [{"kind": "KIND_CPU"}]}, 1),
        ({"backend": "python", "instance_group": [{"count": 3, "kind": "KIND_CPU"}]}, 3),
        ({"backend": "python", "instance_group": [{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1, 3]}]}, 6),
        ({"backend": "python", "instance_group": [{"count": 1, "kind": "KIND_CPU", "gpus": []}]}, 1),
        ({"backend": "python", "instance_group": [{"count": 2}, {"count": 1, "gpus": [0, 1]}]}, 4),
        ({"backend": "python", "instance_group": [{"count": "2"}]}, 2),
    ],
)
def test_a_python_model_has_a_process_for_each_instance_on_each_device(config: dict[str, Any], count: int) -> None:
    assert instances(config) == count


@pytest.mark.parametrize(
    ("message", "model"),
    [
        ("Stub process 'bge-m3_encoder_0_0' is not healthy.", "bge-m3_encoder"),
        ("in ensemble 'm3', Stub process 'm3_encoder_1_12' is not healthy.", "m3_encoder"),
        ("Stub process 'my_0_1_encoder_0_0' is not healthy.", "my_0_1_encoder"),
        ("Stub process 'm3_encoder' is not healthy.", None),
        ("model 'm3_encoder_0_0' is not healthy", None),
        ("CUDA out of memory", None),
        ("", None),
    ],
)
def test_the_model_whose_process_is_dead_is_known_by_tritons_message(message: str, model: str | None) -> None:
    assert unhealthy_model(message) == model
