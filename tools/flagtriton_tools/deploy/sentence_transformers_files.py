# SPDX-License-Identifier: Apache-2.0
"""What sentence-transformers' files say of a checkpoint, read once; `defined` makes a deployment's settings of it."""

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
    """The files of one checkpoint.

    Attributes:
        kinds: the classes in `modules.json`, in its order; empty where there is none.
        definition: what they define; None where that is not served.
        problem: why it is not served.
        summary: what a step finds again when it loads; None where there is no `modules.json`.
        available: the files could be read.
    """

    kinds: tuple[str, ...] = ()
    definition: EmbedderDefinition | None = None
    problem: str | None = None
    summary: str | None = None
    available: bool = True


UNAVAILABLE = Reading(available=False)


def read_files(source: str, revision: str | None = None, *, by_table: bool = False) -> Reading:
    """Return what the files of a local folder or a hub name say.

    Args:
        source: the checkpoint.
        revision: of a hub name.
        by_table: the model table knows its name, and says all but what follows pooling, and the prompts.
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
    """Return what counts beside the model table: it, as FlagEmbedding does, normalises and pools all tokens."""
    return with_prompts(find, replace(defined, normalize=True, include_prompt=True))


def module_folders(folder: Path) -> list[str]:
    """Return the folders of a local checkpoint's modules, the checkpoint's own left out; none if they are not known."""
    try:
        return [module.path for module in listed_modules(file_finder(str(folder))) if module.path]
    except DefinitionError:
        return []


def check_transformer_place(folder: Path) -> None:
    """Raise where a checkpoint keeps its weights in a module's folder, as sentence-transformers' first versions did.

    Raises:
        ToolError: says what to copy.
    """
    if (folder / "config.json").is_file():
        return
    for name in module_folders(folder)[:1]:
        if (folder / name / "config.json").is_file():
            raise ToolError(
                f"{folder} has its transformer in {name}; copy the files there up to {folder}, and make the path of "
                'that module "" in modules.json'
            )
