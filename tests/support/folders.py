# SPDX-License-Identifier: Apache-2.0
"""What several unit tests build: folder snapshots, made-up checkpoint folders, small deployments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.deploy.facts import CheckpointFacts

__all__ = ["BERT_CONFIG", "executable", "facts", "fail_at_rename", "snapshot", "write_checkpoint", "write_json"]

BERT_CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 48,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder with its content; None for a folder."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_checkpoint(folder: Path, config: dict[str, Any] | None = None, *, without: str | None = None) -> Path:
    """Write a folder with the files of a checkpoint, the heavy ones empty, all but `without`; return it."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", BERT_CONFIG if config is None else config)
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").touch()
    if without is not None:
        (folder / without).unlink()
    return folder


def executable(path: Path, source: str) -> Path:
    """Write a program that can be run; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    path.chmod(0o755)
    return path


def facts(**changes: Any) -> CheckpointFacts:
    """Return the facts of a made-up encoder-only embedder, all known."""
    known: dict[str, Any] = {
        "source": "maker/tiny",
        "name": "tiny",
        "known_from": "this test",
        "task": "embed",
        "model_class": "encoder-only-base",
        "pooling_method": "mean",
        "hidden_size": 48,
        "max_length": 512,
    }
    return CheckpointFacts(**{**known, **changes})


def fail_at_rename(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the `number`th rename from now, counted from 0, raise `error`; all others work."""
    rename = Path.rename
    count = iter(range(1000))

    def rename_or_fail(self: Path, target: Path) -> Path:
        if next(count) == number:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_or_fail)
