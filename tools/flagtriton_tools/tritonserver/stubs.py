# SPDX-License-Identifier: Apache-2.0
"""Processes that run a server's Python models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

__all__ = ["instances", "live_stubs", "stub_processes", "unhealthy_model"]

_NOT_HEALTHY = re.compile(r"Stub process '(.+)_\d+_\d+' is not healthy")
"""Triton's reply for a model whose process has died. The name ends with the group and the instance."""


def live_stubs(server_pid: int) -> Counter[tuple[str, str]]:
    """Return the number of live processes of a server, by model and version."""
    return Counter({key: len(pids) for key, pids in stub_processes(server_pid).items()})


def stub_processes(server_pid: int) -> dict[tuple[str, str], set[int]]:
    """Return the ids of the live processes of a server's models, by model and version."""
    found: dict[tuple[str, str], set[int]] = {}
    try:
        children = psutil.Process(server_pid).children()
    except psutil.NoSuchProcess:
        return found
    for child in children:
        try:
            command, dead = child.cmdline(), child.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue  # the process has ended since
        if not dead and len(command) > 1 and command[0].endswith("triton_python_backend_stub"):
            version = Path(command[1]).parent
            found.setdefault((version.parent.name, version.name), set()).add(child.pid)
    return found


def instances(config: Mapping[str, Any]) -> int:
    """Return the number of processes that a loaded model's configuration asks for; 0 for other backends."""
    if config.get("backend") != "python":
        return 0
    groups = config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups) or 1


def unhealthy_model(message: str) -> str | None:
    """Return the model whose process is dead according to an error message of Triton, or None."""
    match = _NOT_HEALTHY.search(message)
    return match[1] if match else None
