# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.repository.bytecode`: what Python would leave beside a step is there before it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flagtriton_tools.repository.bytecode import compile_steps, has_bytecode


def step(folder: Path, *versions: str) -> Path:
    for version in versions:
        (folder / version).mkdir(parents=True)
        (folder / version / "model.py").write_text("ANSWER = 42\n")
    return folder


def test_running_a_step_leaves_its_folder_as_it_was(tmp_path: Path) -> None:
    """By a folder's time Triton tells whether a version has changed."""
    version = step(tmp_path / "step", "1") / "1"
    compile_steps([tmp_path / "step"])
    os.utime(version, (1e9, 1e9))
    command = [sys.executable, "-c", "import model; assert model.ANSWER == 42; assert model.__cached__"]
    subprocess.run(command, cwd=version, check=True)
    assert version.stat().st_mtime == 1e9


def test_all_versions_of_a_step_get_theirs_and_an_ensemble_none(tmp_path: Path) -> None:
    (tmp_path / "ensemble" / "1").mkdir(parents=True)
    compile_steps([step(tmp_path / "step", "1", "2"), tmp_path / "ensemble"])
    assert len(list(tmp_path.rglob("*.pyc"))) == 2
    compile_steps([step(tmp_path / "other", "1", "2")], "2")
    assert [path.parents[1].name for path in (tmp_path / "other").rglob("*.pyc")] == ["2"]
    assert has_bytecode(tmp_path / "step")
    assert not has_bytecode(tmp_path / "ensemble")


def test_a_repository_that_cannot_be_written_stays_as_it_is(tmp_path: Path) -> None:
    version = step(tmp_path / "step", "1") / "1"
    (version / "__pycache__").write_text("a file where the folder would be")
    compile_steps([tmp_path / "step"])
    assert sorted(path.name for path in version.iterdir()) == ["__pycache__", "model.py"]
