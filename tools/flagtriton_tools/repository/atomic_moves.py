# SPDX-License-Identifier: Apache-2.0
"""Atomic changes of a model repository: files are prepared in a staging folder and renamed into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["move_all", "staging"]


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Yield a temporary folder on the repository's file system, and remove it at the end.

    The folder lies next to the repository, where Triton does not look. It lies inside the repository only if the parent
    is on another disk or is read-only.
    """
    beside = repository.resolve().parent
    same_disk = beside.stat().st_dev == repository.stat().st_dev
    parent = beside if same_disk and os.access(beside, os.W_OK) else repository
    folder = Path(tempfile.mkdtemp(prefix=".flagtriton-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename files and folders in order; on failure rename everything back."""
    for _, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
    begun: list[tuple[Path, Path]] = []
    try:
        for move in moves:
            begun.append(move)
            move[0].rename(move[1])
    except BaseException:
        for source, target in reversed(begun):
            if not source.exists():  # the last rename may have failed or completed
                target.rename(source)
        raise
