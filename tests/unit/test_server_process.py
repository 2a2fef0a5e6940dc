# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.server_process`: which models the server is told to load, by a program that prints its flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagtriton_tools.deployments import AddOptions, build
from flagtriton_tools.embedded import Tritonserver
from flagtriton_tools.repository import add_models
from flagtriton_tools.server_process import start_server
from flagtriton_tools.serving import ServeOptions
from tests.unit.builders import executable, facts


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository of `m3`, which has two ensembles, and `plain`, which has one."""
    add_models(build(facts(name="m3", model_class="encoder-only-m3"), AddOptions()), tmp_path / "repo")
    add_models(build(facts(name="plain"), AddOptions()), tmp_path / "repo")
    return tmp_path / "repo"


def flags(repository: Path, *load: str) -> list[str]:
    """Return the flags about loading that a server of these deployments is started with."""
    program = executable(repository.parent / "tritonserver", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    log = repository.parent / "server.log"
    server = start_server(Tritonserver(program, "this test"), ServeOptions(repository, load, log_file=log), Path("/"))
    assert server.wait() == 0
    return [line for line in log.read_text("utf-8").splitlines() if line.startswith(("--load", "--model-control"))]


def test_a_deployment_is_loaded_with_its_further_ensemble(repository: Path) -> None:
    assert flags(repository, "m3") == ["--model-control-mode=explicit", "--load-model=m3", "--load-model=m3_score"]


def test_a_deployment_of_one_ensemble_is_loaded_by_itself(repository: Path) -> None:
    assert flags(repository, "plain") == ["--model-control-mode=explicit", "--load-model=plain"]


def test_all_deployments_asked_for_are_loaded(repository: Path) -> None:
    loaded = [flag.removeprefix("--load-model=") for flag in flags(repository, "plain", "m3")[1:]]
    assert loaded == ["plain", "m3", "m3_score"]


def test_the_server_chooses_by_itself_where_nothing_is_asked_for(repository: Path) -> None:
    assert flags(repository) == []
