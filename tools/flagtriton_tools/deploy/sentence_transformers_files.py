# SPDX-License-Identifier: Apache-2.0
"""Reads sentence-transformers' files of a checkpoint once, so that `sentence_transformers_overlay` has settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flagtriton_server.checkpoint.lookup import FileFinder, FilesUnavailableError, file_finder
from flagtriton_server.sentence_transformers.definition import (
    DefinitionError,
    EmbedderDefinition,
    listed_modules,
    pooled_chain,
)
from flagtriton_server.sentence_transformers.summary import summary_of
from flagtriton_server.sentence_transformers.transformer_settings import embedder_definition, with_prompts
from flagtriton_tools.errors import ToolError

__all__ = ["Reading", "check_transformer_place", "module_folders", "read_files"]


@dataclass(frozen=True)
class Reading:
    """Content of the files of one checkpoint.

    Attributes:
        kinds: classes in `modules.json`, in its order; empty without that file.
        definition: definition of the embedder in the files; None if this version cannot serve it.
        problem: reason why it cannot be served.
        summary: text that a step compares with the files when it loads; None without `modules.json`.
        available: False if the files could not be read.
    """

    kinds: tuple[str, ...] = ()
    definition: EmbedderDefinition | None = None
    problem: str | None = None
    summary: str | None = None
    available: bool = True


UNAVAILABLE = Reading(available=False)


def read_files(source: str, revision: str | None = None, *, by_table: bool = False) -> Reading:
    """Return the content of the files of a local folder or a hub name.

    Args:
        source: checkpoint.
        revision: revision of a hub name.
        by_table: True if the model table has the name. Only modules after pooling, and prompts, then come from files.
    """
    find = file_finder(source, revision)
    try:
        return _reading(find, by_table=by_table)
    except FilesUnavailableError:
        return UNAVAILABLE
    except DefinitionError as error:
        return Reading(problem=str(error), summary=str(error))


def _reading(find: FileFinder, *, by_table: bool) -> Reading:
    modules = listed_modules(find)
    if not modules:
        return Reading(definition=EmbedderDefinition())
    kinds = tuple(module.kind for module in modules)
    whole = _tried(lambda: embedder_definition(find, modules))
    summary = whole if isinstance(whole, str) else summary_of(whole)
    if by_table:
        whole = _tried(lambda: _of_table(find, pooled_chain(find, modules)))
    if isinstance(whole, str):
        return Reading(kinds, problem=whole, summary=summary)
    return Reading(kinds, whole, summary=summary)


def _tried(read: Callable[[], EmbedderDefinition]) -> EmbedderDefinition | str:
    try:
        return read()
    except DefinitionError as error:
        return str(error)


def _of_table(find: FileFinder, defined: EmbedderDefinition) -> EmbedderDefinition:
    """Return the definition with the model table's settings: normalized, and pooled over all tokens.

    FlagEmbedding does the same.
    """
    return with_prompts(find, replace(defined, normalize=True, include_prompt=True))


def module_folders(folder: Path) -> list[str]:
    """Return the folders of a local checkpoint's modules without its main folder; empty if they are unknown."""
    try:
        return [module.path for module in listed_modules(file_finder(str(folder))) if module.path]
    except DefinitionError:
        return []


def check_transformer_place(folder: Path) -> None:
    """Raise if the weights lie in a module's folder, as the first versions of sentence-transformers stored them.

    Raises:
        ToolError: they do. The message says which files to copy.
    """
    if (folder / "config.json").is_file():
        return
    for name in module_folders(folder)[:1]:
        if (folder / name / "config.json").is_file():
            raise ToolError(
                f"{folder} has its transformer in {name}; copy the files there up to {folder}, and make the path of "
                'that module "" in modules.json'
            )
