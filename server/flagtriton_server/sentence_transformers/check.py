# SPDX-License-Identifier: Apache-2.0
"""Checks, when a deployment loads, that sentence-transformers' files still have the definition it was added with.

The files of a hub name may have been unavailable then. A deployment may also come from a version that did not read
them. The check therefore raises an error if a deployment leaves out something that the files define.
"""

from __future__ import annotations

from typing import Final

from flagtriton_server.checkpoint.lookup import FilesUnavailableError, file_finder
from flagtriton_server.sentence_transformers.definition import DefinitionError, EmbedderDefinition, listed_modules
from flagtriton_server.sentence_transformers.summary import former_summary_of, summary_of
from flagtriton_server.sentence_transformers.transformer_settings import embedder_definition

__all__ = ["IGNORED", "check_definition", "unread"]

IGNORED: Final = "ignored"
"""Mark of a deployment that ignores the definition in the files, because its user chose so."""

_UNREAD = "unread: "
_SERVED_ANYWAY = frozenset(["Transformer", "Pooling", "Normalize", "Dropout", "LogitScore"])
"""Modules that a deployment has or replaces even if it was added without the files."""


def unread(pooling: str) -> str:
    """Return the mark of a deployment whose files could not be read when it was added."""
    return _UNREAD + summary_of(EmbedderDefinition(pooling))


def check_definition(checkpoint: str, revision: str | None, expected: str | None, name: str) -> None:
    """Raise if a deployment does not serve the definition in its checkpoint's files.

    Args:
        checkpoint: local folder or hub name.
        revision: revision of a hub name.
        expected: the summary of a definition; or `ignored`; or `unread: ` and the summary of the assumed definition.
            None if the name is in the model table, which takes precedence, or if no file was read. A module that would
            be dropped is then an error.
        name: name of the deployment.

    Raises:
        ValueError: they differ; the message gives the content of the files, the definition that is served, and the
            command that adds the deployment again.
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
            return  # the files were read when it was added, or the model table applies
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
