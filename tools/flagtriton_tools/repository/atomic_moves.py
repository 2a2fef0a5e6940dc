# SPDX-License-Identifier: Apache-2.0
"""Changes of a model repository that happen whole or not at all: made beside it, then moved in."""

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
    """Yield a folder on the repository's file system, removed at the end.

    It lies beside the repository, where Triton does not look; inside only where that is another disk or read-only.
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
    """Move files and folders from one place to another, in order; on failure move everything back."""
    for _, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
    begun: list[tuple[Path, Path]] = []
    try:
        for move in moves:
            begun.append(move)
            move[0].rename(move[1])
    except BaseException:
        for source, target in reversed(begun):
            if not source.exists():  # of the last one it is not known how far it came
                target.rename(source)
        raise
