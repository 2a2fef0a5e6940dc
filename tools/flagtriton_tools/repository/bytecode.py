# SPDX-License-Identifier: Apache-2.0
"""The bytecode that Python leaves beside a step's `model.py` when it first runs, made before.

To Triton a version whose folder has changed is another one: the next time that its model is loaded, for a further
version, say, it starts this one a second time and needs the memory of both.
"""

from __future__ import annotations

import compileall
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["compile_steps", "has_bytecode"]


def compile_steps(folders: Iterable[Path], version: str = "*") -> None:
    """Make the bytecode of some models' versions, or of one; where nothing can be written, none will be."""
    for file in (file for folder in folders for file in folder.glob(f"{version}/model.py")):
        compileall.compile_file(file, quiet=2)


def has_bytecode(folder: Path) -> bool:
    """Return whether some version of a model has that of this Python, as a server has run here in it."""
    return any(folder.glob(f"*/__pycache__/model.{sys.implementation.cache_tag}.pyc"))
