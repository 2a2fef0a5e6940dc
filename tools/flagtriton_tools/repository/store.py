# SPDX-License-Identifier: Apache-2.0
"""A model repository on disk: adds, lists and removes deployments atomically."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import VERSION_PARAMETERS, ParameterError, read_parameters
from flagtriton_tools.deploy.ensembles import PART_OF
from flagtriton_tools.deploy.options import Model
from flagtriton_tools.deploy.pbtxt import read_config, serving, string_parameters, to_pbtxt
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.atomic_moves import move_all, staging

__all__ = ["Entry", "add_models", "entries", "entry_named", "model_names", "remove_deployment", "write_model"]

_MODEL_PY = '''"""{summary}"""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.{step} import TritonPythonModel as TritonPythonModel
'''
_SUMMARIES = {
    "tokenizer": "Text to ragged token ids.",
    "encoder": "Ragged token ids to hidden states.",
    "pooler": "Hidden states to embeddings.",
    "dense_sparse": "Hidden states to dense vectors and lexical weights.",
    "colbert": "Hidden states to ColBERT vectors.",
    "scorer": "Hidden states of pairs to scores.",
    "layerwise_encoder": "Ragged token ids to hidden states at several layers.",
    "reranker_scorer": "Hidden states of pairs to a reranker's scores.",
}


@dataclass(frozen=True)
class Entry:
    """One deployment found in a repository.

    Attributes:
        ensembles: further public ensembles, without the one that has the deployment's name.
        version: version that answers requests.
        versions: all versions.
    """

    name: str
    deployment: Deployment
    steps: tuple[str, ...]
    max_batch_size: int
    ensembles: tuple[str, ...] = ()
    version: int = 1
    versions: tuple[int, ...] = (1,)

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders of the deployment, with the public ensemble first."""
        return (self.name, *self.ensembles, *self.steps)


def add_models(models: Sequence[Model], repository: Path, *, force: bool = False, version: int = 1) -> None:
    """Write the folders of a deployment. On failure the repository stays unchanged.

    Args:
        models: result of `deploy.build.build`.
        repository: folder of the repository; created if it does not exist.
        force: replace folders of the same name.
        version: number of the first version.

    Raises:
        ToolError: a folder of that name exists and `force` is not set, or it is part of another deployment, or the
            repository cannot be written.
    """
    names = [model.name for model in models]
    existing = [name for name in names if (repository / name).exists()]
    if existing and not force:
        raise ToolError(f"{repository} already has {', '.join(existing)}; replace with --force, or pass another --name")
    is_new = not repository.exists()
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with staging(repository) as folder:
            for model in models:
                write_model(model, folder / "new" / model.name, version)
            moves = _out(_replaced(names, repository), repository, folder)
            move_all([*moves, *((folder / "new" / name, repository / name) for name in names)])
    except OSError as error:
        if is_new and repository.exists():
            repository.rmdir()
        raise ToolError(f"cannot write {repository}: {error}") from error


def remove_deployment(name: str, repository: Path) -> tuple[str, ...]:
    """Remove the ensembles and steps of a deployment, and return the names of their folders.

    Raises:
        ToolError: there is no such deployment, or the repository cannot be changed. The message lists the deployments.
    """
    found = {entry.name: entry for entry in entries(repository)}
    own = (folder for folder in _named(name, found, repository).folders if folder == name or folder not in found)
    folders = tuple(folder for folder in own if (repository / folder).exists())
    try:
        with staging(repository) as folder:
            move_all(_out(folders, repository, folder))
    except OSError as error:
        raise ToolError(f"cannot change {repository}: {error}") from error
    return folders


def entries(repository: Path) -> list[Entry]:
    """Return the deployments of a repository, by name.

    Raises:
        ToolError: it is no folder, or a configuration in it does not parse.
    """
    if not repository.is_dir():
        raise ToolError(
            f"{repository} is no folder; `flagtriton add CHECKPOINT --repository {shlex.quote(str(repository))}` makes "
            "it"
        )
    configs = {path.parent.name: read_config(path) for path in sorted(repository.glob("*/config.pbtxt"))}
    return [entry for name in configs if (entry := _entry(name, configs, repository)) is not None]


def entry_named(name: str, repository: Path) -> Entry:
    """Return one deployment of a repository.

    Raises:
        ToolError: there is no deployment of that name, and the message lists those there are; or as `entries`.
    """
    return _named(name, {entry.name: entry for entry in entries(repository)}, repository)


def _named(name: str, found: Mapping[str, Entry], repository: Path) -> Entry:
    if name not in found:
        raise ToolError(f"{repository} has no deployment {name}; it has {', '.join(found) or 'none'}")
    return found[name]


def model_names(repository: Path) -> list[str]:
    """Return the names of all models, including steps and models that flagtriton did not add."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def _replaced(names: Sequence[str], repository: Path) -> list[str]:
    """Return the folders to move away: those of `names`, and those of the former deployment with the first name.

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


def _entry(name: str, configs: Mapping[str, ModelConfig], repository: Path) -> Entry | None:
    config = configs[name]
    if config.platform != "ensemble":
        return None
    try:
        deployment = read_parameters(Deployment, string_parameters(config), ignore_unknown=True)
    except ParameterError:
        return None  # an ensemble that flagtriton did not make, or an additional one of a deployment
    further = {other: c for other, c in configs.items() if _part_of(c) == name}
    steps = [step.model_name for c in (config, *further.values()) for step in c.ensemble_scheduling.step]
    versions = tuple(sorted(int(path.name) for path in (repository / name).iterdir() if path.name.isdecimal()))
    version = next(iter(config.version_policy.specific.versions), max(versions, default=1))
    return Entry(
        name, deployment, tuple(dict.fromkeys(steps)), config.max_batch_size, tuple(further), version, versions
    )


def _part_of(config: ModelConfig) -> str | None:
    """Return the deployment that an additional ensemble belongs to, or None."""
    marked = config.platform == "ensemble" and PART_OF in config.parameters
    return config.parameters[PART_OF].string_value if marked else None


def write_model(model: Model, folder: Path, version: int, *, beside: bool = False) -> None:
    """Write one folder of a deployment.

    An ensemble's version folder holds its parameters, so that a later switch can restore them. Triton requires this
    folder, and neither Git nor a bucket stores an empty one.

    Args:
        model: content of the folder.
        folder: path of the folder; created here.
        version: number of the version.
        beside: True if the model has other versions. `config.pbtxt` holds their parameters, so this one needs a file.
    """
    own = folder / str(version)
    own.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(to_pbtxt(serving(model.config, version)), encoding="utf-8")
    if model.step is not None:
        source = _MODEL_PY.format(summary=_SUMMARIES[model.step], step=model.step)
        (own / "model.py").write_text(source, encoding="utf-8")
    if model.step is None or beside:
        parameters = json.dumps(string_parameters(model.config), indent=2, sort_keys=True)
        (own / VERSION_PARAMETERS).write_text(f"{parameters}\n", encoding="utf-8")
    for place, copied in model.copies.items():
        (own / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copied, own / place)


def _out(names: Sequence[str], repository: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Return the moves that take folders out of a repository."""
    return [(repository / name, folder / "old" / name) for name in names]
