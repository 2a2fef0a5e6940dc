# SPDX-License-Identifier: Apache-2.0
"""Checked access to the outputs of single texts in BGE-M3's result. Knows no search engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from flagtriton.m3.output import as_batch

__all__ = [
    "DEFAULT_NAMES",
    "FieldNames",
    "by_token_id",
    "check_count",
    "check_weights",
    "outputs_of_text",
    "text_count",
]

_KINDS = ("dense_vecs", "lexical_weights", "colbert_vecs")

_ENCODE_ADVICE = "encode with return_dense=True, return_sparse=True or return_colbert_vecs=True"


@dataclass(frozen=True)
class FieldNames:
    """Field names of BGE-M3's three outputs in a search engine's collection.

    Attributes:
        dense_vecs: field of the dense vector.
        lexical_weights: field of the lexical weights.
        colbert_vecs: field of the ColBERT vectors.

    Raises:
        ValueError: two names are equal.
    """

    dense_vecs: str = "dense"
    lexical_weights: str = "sparse"
    colbert_vecs: str = "colbert"

    def __post_init__(self) -> None:
        if len(set(astuple(self))) < len(_KINDS):
            raise ValueError(f"every output needs a field name of its own, but these came: {self}")


DEFAULT_NAMES = FieldNames()


def text_count(output: Mapping[str, Any]) -> int:
    """Return the number of texts in `output`; the output of a single `str` counts as one.

    Raises:
        ValueError: `output` holds nothing, or its parts disagree.
    """
    counts = {kind: len(part) for kind, part in _parts(output).items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the parts of output are of different numbers of texts: {counts}")
    return counts.popitem()[1]


def outputs_of_text(output: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the outputs of text `index`, without those that are None.

    The keys are among `dense_vecs` (`[D]`), `lexical_weights` (token id to weight) and `colbert_vecs` (`[T - 1, C]`).

    Raises:
        ValueError: there is no text of that index, `output` holds nothing, or its parts disagree.
    """
    count = text_count(output)
    if not 0 <= index < count:
        raise ValueError(f"index is {index}, but output is of {count} texts: give one from 0 to {count - 1}")
    return {kind: part[index] for kind, part in _parts(output).items()}


def check_count(name: str, values: Sequence[Any], output: Mapping[str, Any]) -> None:
    """Raise unless `values`, the argument called `name`, has one item per text of `output`.

    Raises:
        ValueError: there are more or fewer.
    """
    if len(values) != text_count(output):
        raise ValueError(f"{len(values)} {name} came for {text_count(output)} texts: give one a text, in their order")


def check_weights(lexical_weights: Mapping[str, float]) -> dict[str, float]:
    """Return one text's weights as Python floats, which every JSON writer accepts.

    Raises:
        ValueError: the argument is no dict, as without return_sparse, or a weight is not a positive number.
    """
    if not isinstance(lexical_weights, Mapping):
        raise ValueError(
            f"the lexical_weights of one text are a dict, but a {type(lexical_weights).__name__} came: "
            'encode with return_sparse=True and give output["lexical_weights"][index]'
        )
    weights = {str(token): float(weight) for token, weight in lexical_weights.items()}
    for token, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of token {token!r} is {weight}: expected a positive, finite number")
    return weights


def by_token_id(lexical_weights: Mapping[str, float]) -> dict[int, float]:
    """Return one text's weights by token id, in ascending order.

    Raises:
        ValueError: a key is no token id, or `check_weights` refuses them.
    """
    weights = check_weights(lexical_weights)
    for token in weights:
        if not token.isdecimal():
            raise ValueError(
                f"{token!r} is no token id: give lexical_weights as encode returned them, not convert_id_to_token's"
            )
    return dict(sorted((int(token), weight) for token, weight in weights.items()))


def _parts(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of `output` that are not None, each with one item per text."""
    parts = {kind: as_batch(kind, output[kind]) for kind in _KINDS if output.get(kind) is not None}
    if not parts:
        raise ValueError(f"output holds none of {', '.join(_KINDS)}: {_ENCODE_ADVICE}")
    return parts
