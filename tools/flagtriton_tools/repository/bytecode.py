# SPDX-License-Identifier: Apache-2.0
"""Compiles the `model.py` of steps in advance, so that Python's first run leaves no new file in a version's folder.

Triton reloads a version whose folder has changed when it next loads that model, for example for another version. The
reload starts a second instance and needs the memory of both.
"""

from __future__ import annotations

import compileall
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["compile_steps", "has_bytecode"]


def compile_steps(folders: Iterable[Path], version: str = "*") -> None:
    """Compile `model.py` in all versions of some models, or in one. Nothing is compiled in folders that are read-only.

    Args:
        folders: folders of the models.
        version: number of one version; `*` means all.
    """
    for file in (file for folder in folders for file in folder.glob(f"{version}/model.py")):
        compileall.compile_file(file, quiet=2)


def has_bytecode(folder: Path) -> bool:
    """Return whether a version of a model has bytecode of this Python, which means that a server has run it here."""
    return any(folder.glob(f"*/__pycache__/model.{sys.implementation.cache_tag}.pyc"))
