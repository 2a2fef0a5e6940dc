# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.terminal`: commands do not fail for letters that a terminal does not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["bérep".encode(), b"not-utf-8-\xff"])
def test_a_path_that_the_terminal_cannot_show_is_escaped(name: bytes, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flagtriton_tools", "list", "--repository", os.fsencode(tmp_path) + b"/" + name]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"is no folder; `flagtriton add CHECKPOINT --repository" in done.stderr
    assert {"b": rb"b\xe9rep", "n": rb"not-utf-8-\udcff"}[chr(name[0])] in done.stderr
