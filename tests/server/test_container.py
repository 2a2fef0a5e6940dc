# SPDX-License-Identifier: Apache-2.0
"""The container's entry point on a real Triton, as in the image: a read-only root, no capabilities, a health check."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flagtriton import FlagModel
from flagtriton_tools.tritonserver.options import free_ports
from tests.robustness.faults.serving import ended
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.server

PORTS = ("http", "grpc", "metrics", "health")

READ_ONLY = """
mount --bind /tmp /tmp
mount --bind "$WRITABLE" "$WRITABLE"
mount -o remount,bind,ro /
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs "$@"
"""
"""Runs a program without capabilities, under a root of which one folder and `/tmp` can be written, as in the image."""


def can_confine(folder: Path) -> bool:
    command = ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", "sh", "-c", "! touch /var/x 2>/dev/null"]
    environment = {**os.environ, "WRITABLE": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


@dataclass
class Container:
    """A running entry point."""

    process: subprocess.Popen[bytes]
    folder: Path
    ports: dict[str, int]

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def health(self, path: str = "healthz") -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['health']}/{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 240
        while self.health() != 200:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.2)

    def health_check(self) -> int:
        """Run the image's own health check; return its exit code."""
        command = re.search(r"HEALTHCHECK .*\\\n\s*CMD (\[.*\])", (ROOT / "docker" / "Dockerfile").read_text())
        assert command is not None
        environment = {**os.environ, "FLAGTRITON_HEALTH_FILE": str(self.folder / "run" / "healthy")}
        return subprocess.run(json.loads(command[1]), env=environment, capture_output=True, check=False).returncode


@contextmanager
def container(folder: Path, models: str) -> Iterator[Container]:
    ports = dict(zip(PORTS, free_ports(4), strict=True))
    environment = {
        **os.environ,
        "FLAGTRITON_MODELS": models,
        "FLAGTRITON_REPOSITORY": str(folder / "models"),
        "FLAGTRITON_HEALTH_FILE": str(folder / "run" / "healthy"),
        "FLAGTRITON_HOST": "127.0.0.1",
        "FLAGTRITON_SERVE": " ".join(f"--{name}-port {port}" for name, port in ports.items()),
        "TMPDIR": str(folder),
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "HF_HUB_OFFLINE": "1",
        "WRITABLE": str(folder),
    }
    entry_point = [sys.executable, "-m", "flagtriton_tools.cli.container"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", *entry_point],
            env=environment, stdout=said, stderr=said, cwd=folder,
        )  # fmt: skip
    with ended(process):
        yield Container(process, folder, ports)


def test_a_container_adds_serves_is_healthy_and_drains(bert: Path, tmp_path: Path) -> None:
    if not can_confine(tmp_path):
        pytest.skip("mount namespaces need root")
    with container(tmp_path, f"{bert} --name tiny --pooling mean --precision fp32") as running:
        assert running.health_check() != 0
        running.wait_until_ready()
        wait_for(lambda: running.health_check() == 0)  # its file is written after /healthz says so
        assert running.health("livez") == 200
        with FlagModel("tiny", url=f"grpc://127.0.0.1:{running.ports['grpc']}", pooling_method="mean") as model:
            assert model.encode(["a text", "another"]).shape[0] == 2
        assert "added tiny" in running.said
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(40) == 0
    assert not (tmp_path / "run" / "healthy").exists()


def test_a_model_that_cannot_be_added_is_named(tmp_path: Path) -> None:
    if not can_confine(tmp_path):
        pytest.skip("mount namespaces need root")
    with container(tmp_path, "no/such-model") as running:
        assert running.process.wait(60) == 2
        assert "no/such-model" in running.said
