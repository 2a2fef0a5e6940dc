# SPDX-License-Identifier: Apache-2.0
"""A model repository on disk: deployments added, listed and removed, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.parameters import ParameterError, read_parameters
from flagtriton.protocol import Deployment
from flagtriton_tools.deployments import PART_OF, Model
from flagtriton_tools.errors import ToolError
from flagtriton_tools.pbtxt import read_config, to_pbtxt

__all__ = ["Entry", "add_models", "entries", "model_names", "remove_deployment"]

_MODEL_PY = '''"""{summary}"""

from flagtriton_server.{step} import TritonPythonModel as TritonPythonModel
'''
_SUMMARIES = {
    "tokenizer": "Text to ragged token ids.",
    "encoder": "Ragged token ids to hidden states.",
    "pooler": "Hidden states to embeddings.",
    "sparse": "Hidden states to lexical weights.",
    "colbert": "Hidden states to ColBERT vectors.",
    "scorer": "Hidden states of pairs to scores.",
    "layered_encoder": "Ragged token ids to hidden states at several layers.",
    "reranker_scorer": "Hidden states of pairs to a reranker's scores.",
}


@dataclass(frozen=True)
class Entry:
    """One deployment found in a repository.

    Attributes:
        ensembles: further public ones beside that of its own name.
    """

    name: str
    deployment: Deployment
    steps: tuple[str, ...]
    max_batch_size: int
    ensembles: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """All its folders, its own first."""
        return (self.name, *self.ensembles, *self.steps)


def add_models(models: Sequence[Model], repository: Path, *, force: bool = False) -> None:
    """Write the folders of a deployment; on any failure the repository is left as it was.

    Args:
        models: what `deployments.build` returned.
        repository: made if it does not exist.
        force: replace folders of the same name.

    Raises:
        ToolError: a folder of that name is there and `force` is not set, or it is part of another deployment; or the
            repository cannot be written.
    """
    names = [model.name for model in models]
    existing = [name for name in names if (repository / name).exists()]
    if existing and not force:
        raise ToolError(f"{repository} already has {', '.join(existing)}; replace with --force, or pass another --name")
    is_new = not repository.exists()
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _staging(repository) as staging:
            for model in models:
                _write(model, staging / "new" / model.name)
            _swap(_replaced(names, repository), names, staging, repository)
    except OSError as error:
        if is_new and repository.exists():
            repository.rmdir()
        raise ToolError(f"cannot write {repository}: {error}") from error


def remove_deployment(name: str, repository: Path) -> tuple[str, ...]:
    """Remove a deployment's ensemble and steps; return the names of the folders.

    Raises:
        ToolError: there is no such deployment, and says which there are; or the repository cannot be changed.
    """
    found = {entry.name: entry for entry in entries(repository)}
    if name not in found:
        raise ToolError(f"{repository} has no deployment {name}; it has {', '.join(found) or 'none'}")
    own = (folder for folder in found[name].folders if folder == name or folder not in found)
    folders = tuple(folder for folder in own if (repository / folder).exists())
    try:
        with _staging(repository) as staging:
            _swap(folders, (), staging, repository)
    except OSError as error:
        raise ToolError(f"cannot change {repository}: {error}") from error
    return folders


def entries(repository: Path) -> list[Entry]:
    """Return the deployments of a repository, by name.

    Raises:
        ToolError: it is no folder, or a configuration in it does not parse.
    """
    if not repository.is_dir():
        raise ToolError(f"{repository} is no folder; `flagtriton add CHECKPOINT --repository {repository}` makes it")
    configs = {path.parent.name: read_config(path) for path in sorted(repository.glob("*/config.pbtxt"))}
    return [entry for name in configs if (entry := _entry(name, configs)) is not None]


def model_names(repository: Path) -> list[str]:
    """Return the names of all models, steps and those of others included."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def _replaced(names: Sequence[str], repository: Path) -> list[str]:
    """Return the folders that make room: those of `names`, and those that the first, the ensemble, had before.

    Raises:
        ToolError: one of them is part of another deployment.
    """
    found = {entry.name: entry for entry in entries(repository)}
    former = found.pop(names[0], None)
    for entry in found.values():
        shared = set(entry.folders) & set(names)
        if shared:
            raise ToolError(f"{sorted(shared)[0]} is part of the deployment {entry.name}; pass another --name")
    left = [folder for folder in former.folders if folder not in found] if former is not None else []
    return [name for name in dict.fromkeys([*names, *left]) if (repository / name).exists()]


def _entry(name: str, configs: Mapping[str, ModelConfig]) -> Entry | None:
    config = configs[name]
    if config.platform != "ensemble":
        return None
    strings = {key: value.string_value for key, value in config.parameters.items()}
    try:
        deployment = read_parameters(Deployment, strings, ignore_unknown=True)
    except ParameterError:
        return None  # an ensemble that somebody else made, or a further one of a deployment
    further = {other: c for other, c in configs.items() if _part_of(c) == name}
    steps = [step.model_name for c in (config, *further.values()) for step in c.ensemble_scheduling.step]
    return Entry(name, deployment, tuple(dict.fromkeys(steps)), config.max_batch_size, tuple(further))


def _part_of(config: ModelConfig) -> str | None:
    """Return the deployment that a further ensemble belongs to."""
    marked = config.platform == "ensemble" and PART_OF in config.parameters
    return config.parameters[PART_OF].string_value if marked else None


def _write(model: Model, folder: Path) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(to_pbtxt(model.config), encoding="utf-8")
    if model.step is None:
        (version / ".gitkeep").touch()  # Triton wants a version folder, Git wants a file in it
    else:
        source = _MODEL_PY.format(summary=_SUMMARIES[model.step], step=model.step)
        (version / "model.py").write_text(source, encoding="utf-8")


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Yield a folder on the repository's file system, removed at the end.

    It lies beside the repository, where Triton does not look; inside only where that is another disk or read-only.
    """
    beside = repository.resolve().parent
    same_disk = beside.stat().st_dev == repository.stat().st_dev
    parent = beside if same_disk and os.access(beside, os.W_OK) else repository
    staging = Path(tempfile.mkdtemp(prefix=".flagtriton-", dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging)


def _swap(replaced: Sequence[str], added: Sequence[str], staging: Path, repository: Path) -> None:
    """Move `replaced` out to `old` and `added` in from `new`; on failure move everything back."""
    (staging / "old").mkdir()
    moves = [(repository / name, staging / "old" / name) for name in replaced]
    moves += [(staging / "new" / name, repository / name) for name in added]
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
