# SPDX-License-Identifier: Apache-2.0
"""The README's Python is run as it stands, and must print what its comments promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Served

pytestmark = pytest.mark.server

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_example_prints_what_its_comments_say(served: Served) -> None:
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    source = block.replace("grpc://localhost:8001", served.grpc_url)
    promised = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=120)
    assert len(promised) == 2
    assert done.stdout.splitlines() == promised
