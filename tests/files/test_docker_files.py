# SPDX-License-Identifier: Apache-2.0
"""docker/: files that their linters accept, and that name what is there."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (DOCKER / "Dockerfile").read_text()


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_hadolint_finds_no_fault() -> None:
    assert run(BIN / "hadolint", DOCKER / "Dockerfile") == ""


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_keep_to_the_specification(name: str) -> None:
    assert run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / name) == ""


def test_all_that_the_image_copies_is_there_and_sent(dockerfile: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M) for name in line.split()[:-1]]
    assert {"client", "server", "tools", "pyproject.toml", "constraints.txt"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


def test_nothing_is_sent_that_may_hold_a_secret_or_is_large() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
    assert (ROOT / ".dockerignore").read_text().split()[0] == "*"
    for name in (".env", "docker/secrets", ".git", ".venv", "tests", "model_repository"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in sent)


def test_the_image_s_user_is_not_root_and_the_last_stage_is_the_plain_one(dockerfile: str) -> None:
    stages = re.split(r"^FROM ", dockerfile, flags=re.M)
    assert stages[-1].split() == ["flagtriton"]
    for stage in stages[1:]:
        users = re.findall(r"^USER (.+)$", stage, re.M)
        assert not users or users[-1] == "1000:1000"


def test_torch_is_pinned_where_the_image_looks() -> None:
    assert len(re.findall(r"^torch==", (ROOT / "constraints.txt").read_text(), re.M)) == 1


def test_compose_mounts_what_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in compose["volumes"]


def test_the_server_may_do_nothing_that_it_need_not(compose: dict[str, Any]) -> None:
    server = compose["services"]["triton"]
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])


def test_the_proxy_gets_only_settings_that_its_recipe_knows(compose: dict[str, Any]) -> None:
    known = set(re.findall(r'"\$\{(FLAGTRITON_\w+):=', (DOCKER / "nginx" / "render.sh").read_text()))
    known |= set(re.findall(r": \"\$\{(FLAGTRITON_\w+)", (DOCKER / "nginx" / "render.sh").read_text()))
    assert set(compose["services"]["proxy"]["environment"]) <= known


def test_the_grace_period_is_longer_than_draining_takes(compose: dict[str, Any]) -> None:
    from flagtriton_tools.serve.session import WatchOptions

    assert int(compose["services"]["triton"]["stop_grace_period"].rstrip("s")) >= WatchOptions().grace_period_s + 5
