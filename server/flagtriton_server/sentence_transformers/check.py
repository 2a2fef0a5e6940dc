# SPDX-License-Identifier: Apache-2.0
"""When a deployment loads: whether sentence-transformers' files still say what they said when it was added.

A hub name's files may not have been at hand then, and a deployment may come from a version that did not read them. So
nothing that they define is left out without a word.
"""

from __future__ import annotations

from typing import Final

from flagtriton_server.checkpoint.lookup import FilesUnavailableError, file_finder
from flagtriton_server.sentence_transformers.definition import DefinitionError, EmbedderDefinition, listed_modules
from flagtriton_server.sentence_transformers.summary import former_summary_of, summary_of
from flagtriton_server.sentence_transformers.transformer_settings import embedder_definition

__all__ = ["IGNORED", "check_definition", "unread"]

IGNORED: Final = "ignored"
"""Said of a deployment that leaves out what the files say, as its user wants it."""

_UNREAD = "unread: "
_SERVED_ANYWAY = frozenset(["Transformer", "Pooling", "Normalize", "Dropout", "LogitScore"])
"""Modules that a deployment has, or replaces, which knows nothing of the files."""


def unread(pooling: str) -> str:
    """Return what is said of a deployment whose files could not be read when it was added."""
    return _UNREAD + summary_of(EmbedderDefinition(pooling))


def check_definition(checkpoint: str, revision: str | None, expected: str | None, name: str) -> None:
    """Raise where a deployment would answer otherwise than its checkpoint's files define.

    Args:
        checkpoint: local folder or hub name.
        revision: of a hub name.
        expected: a definition's summary; `ignored`; `unread: ` and the summary of what was assumed; None where the
            name is in the model table, whose word counts, or nothing was read: then a module that would be dropped is
            an error.
        name: the deployment's.

    Raises:
        ValueError: says what the files say, what is served, and how to add it again.
    """
    if expected == IGNORED:
        return
    find = file_finder(checkpoint, revision)
    try:
        modules = listed_modules(find)
        if expected is None:
            dropped = [module.kind for module in modules if module.kind not in _SERVED_ANYWAY]
            found, fits = f"that {', '.join(dropped)} belong to it", not dropped
        else:
            defined = embedder_definition(find, modules)
            found, known = summary_of(defined), expected.removeprefix(_UNREAD)
            fits = known in (found, former_summary_of(defined)) or (not modules and expected.startswith(_UNREAD))
    except FilesUnavailableError as error:
        if expected is None or not expected.startswith(_UNREAD):
            return  # they were read when it was added, or the model table counts
        raise ValueError(f"{error}; nothing tells how {checkpoint} pools. {_again(checkpoint, name)}") from error
    except DefinitionError as error:
        found, fits = str(error), expected == str(error)
    if not fits:
        served = "with none of this known" if expected is None else f"as {expected!r}"
        raise ValueError(
            f"{checkpoint}: its sentence-transformers files say: {found}. {name} was added {served}. "
            f"{_again(checkpoint, name)}"
        )


def _again(checkpoint: str, name: str) -> str:
    return (
        f"Add it again where its files are at hand: flagtriton add {checkpoint} --name {name} --repository REPOSITORY "
        "--force and its other options; with --no-modules --pooling METHOD they are left out, as in FlagEmbedding"
    )
