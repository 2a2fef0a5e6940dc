# SPDX-License-Identifier: Apache-2.0
"""The bytecode that Python leaves beside a step's `model.py` when it first runs, made before.

To Triton a version whose folder has changed is another one: the next time that its model is loaded, for a further
version, say, it starts this one a second time and needs the memory of both.
"""

from __future__ import annotations

import compileall
from collections.abc import Iterable
from pathlib import Path

__all__ = ["compile_steps", "has_bytecode"]


def compile_steps(folders: Iterable[Path]) -> None:
    """Make the bytecode of all versions of some models; where nothing can be written, none will be."""
    for file in (file for folder in folders for file in folder.glob("*/model.py")):
        compileall.compile_file(file, quiet=2)


def has_bytecode(folder: Path) -> bool:
    """Return whether some version of a model has it, as a server has run here."""
    return any(folder.glob("*/__pycache__"))
