# SPDX-License-Identifier: Apache-2.0
"""The model table: published checkpoints by name, and the name of a checkpoint by its path.

Classes, pooling, remote-code flags and instruction formats are FlagEmbedding 1.4.2's model table; hidden sizes
and lengths are those of the published configurations. Imports nothing that knows a server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from flagtriton.types import EmbedderModelClass, PoolingMethod, RerankerModelClass

__all__ = [
    "EMBEDDERS",
    "RERANKERS",
    "checkpoint_name",
    "support_model_list",
    "support_native_bge_model_list",
]

_HUB_CACHE_PREFIX: Final = "models--"
"""Prefix of a folder in the Hub's cache; owner and name follow, separated by `--`."""

_MODELSCOPE_DOT: Final = "___"

_PLAIN: Final = "{}{}"
_INSTRUCT: Final = "Instruct: {}\nQuery: {}"
_INSTRUCT_TIGHT: Final = "Instruct: {}\nQuery:{}"
_TAGGED: Final = "<instruct>{}\n<query>{}"


@dataclass(frozen=True)
class EmbedderCheckpoint:
    """One published embedder.

    Attributes:
        model_class: model class.
        pooling_method: pooling of token vectors.
        hidden_size: D, components of a dense vector.
        max_length: tokens of the longest text, special tokens included.
        query_instruction_format: format with two fields, instruction and text.
        trust_remote_code: whether FlagEmbedding runs the checkpoint's own code.
    """

    model_class: EmbedderModelClass
    pooling_method: PoolingMethod
    hidden_size: int
    max_length: int
    query_instruction_format: str = _PLAIN
    trust_remote_code: bool = False


@dataclass(frozen=True)
class RerankerCheckpoint:
    """One published reranker.

    Attributes:
        model_class: model class.
        hidden_size: D, components of a hidden state; None if unknown.
        max_length: tokens of the longest pair, special tokens included; None if unknown.
        trust_remote_code: whether FlagEmbedding runs the checkpoint's own code.
        needs_code: whether the checkpoint requires its own code; FlagEmbedding's table does not tell.
    """

    model_class: RerankerModelClass
    hidden_size: int | None = None
    max_length: int | None = None
    trust_remote_code: bool = False
    needs_code: bool = False


def _encoder(
    pooling: PoolingMethod, hidden_size: int, max_length: int = 512, fmt: str = _PLAIN, remote: bool = False
) -> EmbedderCheckpoint:
    model_class = EmbedderModelClass.ENCODER_ONLY_BASE
    return EmbedderCheckpoint(model_class, pooling, hidden_size, max_length, fmt, remote)


def _decoder(hidden_size: int, max_length: int, fmt: str, remote: bool = False) -> EmbedderCheckpoint:
    model_class = EmbedderModelClass.DECODER_ONLY_BASE
    return EmbedderCheckpoint(model_class, PoolingMethod.LAST_TOKEN, hidden_size, max_length, fmt, remote)


_CLS = PoolingMethod.CLS
_MEAN = PoolingMethod.MEAN

_NATIVE_BGE: Final[dict[str, EmbedderCheckpoint]] = {
    "bge-reasoner-embed-qwen3-8b-0923": _decoder(4096, 32768, _INSTRUCT),
    "bge-code-v1": _decoder(1536, 32768, _TAGGED, remote=True),
    "bge-en-icl": EmbedderCheckpoint(
        EmbedderModelClass.DECODER_ONLY_ICL, PoolingMethod.LAST_TOKEN, 4096, 32768, _TAGGED
    ),
    "bge-multilingual-gemma2": _decoder(3584, 8192, _TAGGED),
    "bge-m3": EmbedderCheckpoint(EmbedderModelClass.ENCODER_ONLY_M3, _CLS, 1024, 8192),
    "bge-large-en-v1.5": _encoder(_CLS, 1024),
    "bge-base-en-v1.5": _encoder(_CLS, 768),
    "bge-small-en-v1.5": _encoder(_CLS, 384),
    "bge-large-zh-v1.5": _encoder(_CLS, 1024),
    "bge-base-zh-v1.5": _encoder(_CLS, 768),
    "bge-small-zh-v1.5": _encoder(_CLS, 512),
    "bge-large-en": _encoder(_CLS, 1024),
    "bge-base-en": _encoder(_CLS, 768),
    "bge-small-en": _encoder(_CLS, 384),
    "bge-large-zh": _encoder(_CLS, 1024),
    "bge-base-zh": _encoder(_CLS, 768),
    "bge-small-zh": _encoder(_CLS, 512),
}

EMBEDDERS: Final[dict[str, EmbedderCheckpoint]] = {
    **_NATIVE_BGE,
    "Qwen3-Embedding-0.6B": _decoder(1024, 32768, _INSTRUCT_TIGHT),
    "Qwen3-Embedding-4B": _decoder(2560, 32768, _INSTRUCT_TIGHT),
    "Qwen3-Embedding-8B": _decoder(4096, 32768, _INSTRUCT_TIGHT),
    "e5-mistral-7b-instruct": _decoder(4096, 32768, _INSTRUCT),
    "e5-large-v2": _encoder(_MEAN, 1024),
    "e5-base-v2": _encoder(_MEAN, 768),
    "e5-small-v2": _encoder(_MEAN, 384),
    "multilingual-e5-large-instruct": _encoder(_MEAN, 1024, fmt=_INSTRUCT),
    "multilingual-e5-large": _encoder(_MEAN, 1024),
    "multilingual-e5-base": _encoder(_MEAN, 768),
    "multilingual-e5-small": _encoder(_MEAN, 384),
    "e5-large": _encoder(_MEAN, 1024),
    "e5-base": _encoder(_MEAN, 768),
    "e5-small": _encoder(_MEAN, 384),
    "gte-Qwen2-7B-instruct": _decoder(3584, 32768, _INSTRUCT, remote=True),
    "gte-Qwen2-1.5B-instruct": _decoder(1536, 32768, _INSTRUCT, remote=True),
    "gte-Qwen1.5-7B-instruct": _decoder(4096, 32768, _INSTRUCT, remote=True),
    "gte-multilingual-base": _encoder(_CLS, 768, 8192, remote=True),
    "gte-large-en-v1.5": _encoder(_CLS, 1024, 8192, remote=True),
    "gte-base-en-v1.5": _encoder(_CLS, 768, 8192, remote=True),
    "gte-large": _encoder(_MEAN, 1024),
    "gte-base": _encoder(_MEAN, 768),
    "gte-small": _encoder(_MEAN, 384),
    "gte-large-zh": _encoder(_CLS, 1024),
    "gte-base-zh": _encoder(_CLS, 768),
    "gte-small-zh": _encoder(_CLS, 512),
    "SFR-Embedding-2_R": _decoder(4096, 32768, _INSTRUCT),
    "SFR-Embedding-Mistral": _decoder(4096, 32768, _INSTRUCT),
    "Linq-Embed-Mistral": _decoder(4096, 32768, _INSTRUCT),
    "bce-embedding-base_v1": _encoder(_CLS, 768),
}
"""The 47 embedders, by name."""

RERANKERS: Final[dict[str, RerankerCheckpoint]] = {
    "bge-reranker-base": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, 768, 512),
    "bge-reranker-large": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, 1024, 512),
    "bge-reranker-v2-m3": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, 1024, 8192),
    "bge-reranker-v2-gemma": RerankerCheckpoint(RerankerModelClass.DECODER_ONLY_BASE, 2048, 8192),
    "bge-reranker-v2-minicpm-layerwise": RerankerCheckpoint(RerankerModelClass.DECODER_ONLY_LAYERWISE, 2304, 2048),
    "bge-reranker-v2.5-gemma2-lightweight": RerankerCheckpoint(RerankerModelClass.DECODER_ONLY_LIGHTWEIGHT, 3584, 8192),
    "jina-reranker-v2-base-multilingual": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, needs_code=True),
    "gte-multilingual-reranker-base": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, needs_code=True),
    "bce-reranker-base_v1": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, 768, 512),
    "jina-reranker-v1-turbo-en": RerankerCheckpoint(RerankerModelClass.ENCODER_ONLY_BASE, needs_code=True),
}
"""The 10 rerankers, by name."""


def checkpoint_name(model_name_or_path: str) -> str:
    """Return the name of a checkpoint, the same for the SDK and for `flagtriton add`.

    The name is the last part of the path, so a symbolic link has another name than its target. Exceptions:

    - `…/models--BAAI--bge-m3/snapshots/5617…`, a snapshot in the Hub's cache: the repository's name, `bge-m3`;
    - `…/bge-m3/checkpoint-500`, written by a trainer: the parent folder's name;
    - `…/bge-large-zh-v1___5`, downloaded by ModelScope, which writes `___` for a dot: `bge-large-zh-v1.5`.

    A trailing slash is ignored, and backslashes count as slashes. The function reads the file system only to resolve
    `.`, `..`, `~` and the parent of a `checkpoint-500` in the working directory. Upper and lower case are kept.

    Raises:
        TypeError: the argument is no `str`.
    """
    if not isinstance(model_name_or_path, str):
        kind = type(model_name_or_path).__name__
        raise TypeError(f"the model is a {kind}; expected the name of a deployment or checkpoint, or a path, as a str")
    path = _resolve(model_name_or_path.replace("\\", "/"))
    if path.name.startswith("checkpoint-") and path.parent.name:
        path = path.parent
    repository = path.parent.parent if path.parent.name == "snapshots" else path
    if repository.name.startswith(_HUB_CACHE_PREFIX):
        return repository.name.rpartition("--")[2] or path.name
    return path.name.replace(_MODELSCOPE_DOT, ".")


def _resolve(path_text: str) -> PurePosixPath:
    """Return a path without `.`, `..` and `~`, so that its last part is a name."""
    path = PurePosixPath(os.path.expanduser(path_text))  # noqa: PTH111 - Path.expanduser raises where there is no home
    if ".." in path.parts:
        after_dots = len(path.parts) - path.parts[::-1].index("..")
        parent = os.path.realpath(PurePosixPath(*path.parts[:after_dots]))  # as the kernel resolves symbolic links
        return PurePosixPath(parent, *path.parts[after_dots:])
    is_here = path_text != "" and not path.name and not path.is_absolute()
    if is_here or (path.parent == PurePosixPath() and path.name.startswith("checkpoint-") and Path(path).is_dir()):
        return PurePosixPath(_working_directory()) / path
    return path


def _working_directory() -> str:
    """Return the working directory by the shell's name, which keeps a symbolic link."""
    logical, physical = os.environ.get("PWD", ""), str(Path.cwd())
    return logical if logical.startswith("/") and os.path.realpath(logical) == physical else physical


def support_model_list() -> list[str]:
    """Return the names of all embedders in the model table."""
    return list(EMBEDDERS)


def support_native_bge_model_list() -> list[str]:
    """Return the names of BAAI's embedders in the model table."""
    return list(_NATIVE_BGE)
