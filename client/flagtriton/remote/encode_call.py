# SPDX-License-Identifier: Apache-2.0
"""What every method's call has in common: its texts and options, its extra arguments, the form of its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.errors import MissingExtraError
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.types import EmbeddingOutput

__all__ = ["EncodeCall", "as_output", "kept_components", "progress_wish"]

_NO_EFFECT = ("pad_to_multiple_of",)
"""Arguments of FlagEmbedding's methods that change how it computes, and no number."""


@dataclass(frozen=True)
class EncodeCall:
    """What one call of `encode` and its siblings asks for.

    Attributes:
        texts: with their instructions, where the caller gave one.
        single: a lone `str` came.
        options: sent with every request.
        max_rows: texts of one request, at most.
        show_progress: overrides the object's setting.
    """

    texts: list[str]
    single: bool
    options: EmbedOptions
    max_rows: int
    show_progress: bool | None

    @property
    def sent(self) -> list[str]:
        """The texts, or one empty text where there are none: an answer without texts still has a width."""
        return self.texts or [""]


def progress_wish(arguments: Mapping[str, Any]) -> bool | None:
    """Return `show_progress` from a method's extra arguments.

    Raises:
        TypeError: there is another among them.
    """
    unknown = set(arguments) - {"show_progress", *_NO_EFFECT}
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}; beside the named ones: show_progress")
    wish: bool | None = arguments.get("show_progress")
    return wish


def kept_components(truncate_dim: int | None, hidden_size: int | None) -> int | None:
    """Return how many components stay of a vector cut like `vector[:truncate_dim]`; None keeps all.

    Raises:
        ValueError: none would stay, or a negative number came and the hidden size is not known.
    """
    if truncate_dim is None or truncate_dim > 0:
        return truncate_dim
    if hidden_size is None:
        raise ValueError(f"truncate_dim is {truncate_dim}, but the deployment does not tell its hidden size")
    if truncate_dim == 0 or hidden_size + truncate_dim < 1:
        raise ValueError(f"truncate_dim is {truncate_dim}, which leaves none of {hidden_size} components")
    return hidden_size + truncate_dim


def as_output(vectors: NDArray[np.float32], *, to_numpy: bool) -> EmbeddingOutput:
    """Return vectors as they are, or as a torch tensor that shares their memory.

    Raises:
        MissingExtraError: a tensor is wanted and torch is not installed.
    """
    if to_numpy:
        return vectors
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("convert_to_numpy=False returns torch tensors: pip install torch") from error
    return torch.from_numpy(vectors)
