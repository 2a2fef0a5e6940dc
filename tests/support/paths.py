# SPDX-License-Identifier: Apache-2.0
"""Where the project's files are, for tests of the files themselves."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
