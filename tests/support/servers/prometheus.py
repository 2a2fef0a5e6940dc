# SPDX-License-Identifier: Apache-2.0
"""The files under docker/prometheus and docker/grafana, run: a real Prometheus with our rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from flagtriton_tools.tritonserver.options import free_ports
from tests.support.paths import ROOT

__all__ = ["CAN_RUN", "FOLDER", "Prometheus", "promtool", "running_prometheus"]

FOLDER = ROOT / "docker" / "prometheus"
CAN_RUN = all(shutil.which(command) for command in ("prometheus", "promtool"))


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return what an expression gives now, series by series.

        Raises:
            AssertionError: Prometheus cannot evaluate it.
        """
        with urlopen(f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=30) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return [(each["metric"], float(each["value"][1])) for each in said["data"]["result"]]

    def wait_for(self, expression: str, timeout_s: float = 60.0) -> list[tuple[dict[str, str], float]]:
        """Return what an expression gives once it gives anything.

        Raises:
            AssertionError: it has not in time.
        """
        deadline = time.monotonic() + timeout_s
        while not (result := self.query(expression)):
            assert time.monotonic() < deadline, f"nothing for {expression}"
            time.sleep(0.5)
        return result


def promtool(*arguments: str | Path, standard_input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool and return what it says."""
    return subprocess.run(["promtool", *arguments], input=standard_input, capture_output=True, text=True, check=False)


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, Sequence[int]], every_s: int = 1) -> Iterator[Prometheus]:
    """Yield one that scrapes ports of this machine, by the name of their job, with our rules and our own pace."""
    (port,) = free_ports(1)
    rules = (FOLDER / "rules.yml").read_text().replace("interval: 15s", "").replace("interval: 30s", "")
    (folder / "rules.yml").write_text(rules)
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
        for job, ports in targets.items()
    ]
    config = {
        "global": {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})
    try:
        made = Prometheus(f"http://127.0.0.1:{port}")
        _wait_until_ready(made, process, folder / "log")
        yield made
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(prometheus: Prometheus, process: subprocess.Popen[Any], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"{prometheus.url}/-/ready", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
