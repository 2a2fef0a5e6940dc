# SPDX-License-Identifier: Apache-2.0
"""Versions of one deployment: adds and removes checkpoints, and switches to the version that answers.

Triton has one `config.pbtxt` for all versions of a model, so the versions of an ensemble cannot have different steps.
An ensemble's configuration names one version of every step instead. A switch changes that version, and a running server
applies it between two requests. Both versions of the steps are loaded at that time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flagtriton.protocol.parameters import VERSION_PARAMETERS, ParameterError, version_parameters
from flagtriton_tools.deploy.options import Model
from flagtriton_tools.deploy.pbtxt import different_fields, read_config, serving, to_pbtxt
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository.atomic_moves import move_all, staging
from flagtriton_tools.repository.bytecode import compile_steps, has_bytecode
from flagtriton_tools.repository.store import Entry, add_models, entries, entry_named, write_model

__all__ = ["add_version", "remove_version", "switch_version"]

_CONFIG = "config.pbtxt"


def add_version(models: Sequence[Model], repository: Path, version: int, *, force: bool = False) -> None:
    """Add a version to a deployment, and create the deployment if there is none. The new version answers from then on.

    Args:
        models: result of `deploy.build.build`.
        repository: folder of the repository; created if it does not exist.
        version: number of the version.
        force: replace a version of the same number.

    Raises:
        ToolError: the version exists and `force` is not set, or it is the one that answers. Also if the versions would
            need different configurations, or the repository cannot be written.
    """
    name = models[0].name
    entry = {found.name: found for found in entries(repository)}.get(name) if repository.is_dir() else None
    if entry is None:
        add_models(models, repository, force=force, version=version)
        return
    if version == entry.version:
        raise ToolError(
            f"version {version} of {name} is the one that answers, and a server would exchange its steps one by one; "
            f"add another number, such as {max(entry.versions) + 1}"
        )
    if version in entry.versions and not force:
        raise ToolError(f"{repository} already has version {version} of {name}; replace it with --force")
    _check_fits(models, entry, repository)
    try:
        with staging(repository) as folder:
            moves = _out(entry, version, repository, folder) if version in entry.versions else []
            for model in models:
                made = folder / "new" / model.name
                write_model(model, made, version, beside=True)
                moves.append((made / str(version), repository / model.name / str(version)))
            for ensemble in (name, *entry.ensembles):
                moves += _exchanged(folder / "new" / ensemble, repository / ensemble, folder)
            move_all(moves)
    except OSError as error:
        raise ToolError(f"cannot write {repository}: {error}") from error
    compile_steps((repository / step for step in entry.steps if has_bytecode(repository / step)), str(version))


def switch_version(name: str, version: int, repository: Path) -> int:
    """Let another version of a deployment answer once it is loaded, and return the former version.

    Raises:
        ToolError: there is no such deployment or version, or the repository cannot be written.
    """
    entry = _with_version(name, version, repository)
    try:
        with staging(repository) as folder:
            moves = []
            for ensemble in (name, *entry.ensembles):
                own = repository / ensemble
                made = folder / "new" / ensemble
                made.mkdir(parents=True)
                config = serving(
                    read_config(own / _CONFIG, to_be_written=True), version, _parameters(own / str(version))
                )
                (made / _CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
                moves += _exchanged(made, own, folder)
            move_all(moves)
    except OSError as error:
        raise ToolError(f"cannot write {repository}: {error}") from error
    return entry.version


def remove_version(name: str, version: int, repository: Path) -> None:
    """Remove a version that does not answer requests.

    Raises:
        ToolError: there is no such deployment or version, or it is the one that answers, or the repository cannot be
            changed.
    """
    entry = _with_version(name, version, repository)
    if version == entry.version:
        raise ToolError(
            f"version {version} of {name} is the one that answers; `flagtriton switch {name} VERSION` first, "
            f"or remove the whole with `flagtriton remove {name}`"
        )
    try:
        with staging(repository) as folder:
            move_all(_out(entry, version, repository, folder))
    except OSError as error:
        raise ToolError(f"cannot change {repository}: {error}") from error


def _with_version(name: str, version: int, repository: Path) -> Entry:
    entry = entry_named(name, repository)
    if version not in entry.versions:
        raise ToolError(f"{name} has no version {version}; it has {', '.join(map(str, entry.versions))}")
    return entry


def _check_fits(models: Sequence[Model], entry: Entry, repository: Path) -> None:
    """Raise if two versions cannot share their configurations."""
    remedy = "versions share theirs: say what the other version was added with, or give this one another --name"
    if {model.name for model in models} != set(entry.folders):
        raise ToolError(
            f"this version would consist of {', '.join(model.name for model in models)}, {entry.name} consists of "
            f"{', '.join(entry.folders)}; {remedy}"
        )
    for model in models:
        config = read_config(repository / model.name / _CONFIG, to_be_written=True)
        fields = different_fields(config, model.config)
        if "version_policy" in fields:
            raise ToolError(f"{entry.name} was added before there were versions; add it once more with --force first")
        if fields:
            raise ToolError(f"{', '.join(fields)} of {model.name} would not be the same for all versions; {remedy}")


def _parameters(folder: Path) -> dict[str, str]:
    try:
        found = version_parameters(folder)
    except (OSError, ParameterError) as error:
        raise ToolError(str(error)) from error
    if found is None:
        raise ToolError(
            f"{folder / VERSION_PARAMETERS} cannot be read: it is not there; add the version again with --force"
        )
    return found


def _out(entry: Entry, version: int, repository: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Return the moves that take a version away."""
    there = [name for name in entry.folders if (repository / name / str(version)).exists()]
    return [(repository / name / str(version), folder / "old" / name / str(version)) for name in there]


def _exchanged(made: Path, own: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Return the moves that replace one configuration by another."""
    return [(own / _CONFIG, folder / "old" / own.name / _CONFIG), (made / _CONFIG, own / _CONFIG)]
