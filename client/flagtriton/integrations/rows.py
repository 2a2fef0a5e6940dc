# SPDX-License-Identifier: Apache-2.0
"""One text's share of what BGE-M3 returned for several, checked. Knows no search engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from flagtriton.m3.output import in_a_list

__all__ = [
    "DEFAULT_NAMES",
    "FieldNames",
    "by_token_id",
    "check_one_a_text",
    "checked_weights",
    "share_of",
    "text_count",
]

_KINDS = ("dense_vecs", "lexical_weights", "colbert_vecs")

_HOW = "encode with return_dense=True, return_sparse=True or return_colbert_vecs=True"


@dataclass(frozen=True)
class FieldNames:
    """What an engine's collection calls the field of each of BGE-M3's three outputs.

    Raises:
        ValueError: two have the same name.
    """

    dense_vecs: str = "dense"
    lexical_weights: str = "sparse"
    colbert_vecs: str = "colbert"

    def __post_init__(self) -> None:
        if len(set(astuple(self))) < len(_KINDS):
            raise ValueError(f"every output needs a field name of its own, but these came: {self}")


DEFAULT_NAMES = FieldNames()


def text_count(output: Mapping[str, Any]) -> int:
    """Return how many texts `output` is of; output for a lone text, not in a list, counts as one.

    Raises:
        ValueError: it holds nothing, or its parts disagree.
    """
    counts = {kind: len(part) for kind, part in _parts(output).items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the parts of output are of different numbers of texts: {counts}")
    return counts.popitem()[1]


def share_of(output: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return what `output` holds of text `index`.

    The keys are those of `dense_vecs` (`[D]`), `lexical_weights` (token id to weight) and `colbert_vecs` (`[T - 1, D]`)
    that were asked for.

    Raises:
        ValueError: there is no text of that index, `output` holds nothing, or its parts disagree.
    """
    count = text_count(output)
    if not 0 <= index < count:
        raise ValueError(f"index is {index}, but output is of {count} texts: give one from 0 to {count - 1}")
    return {kind: part[index] for kind, part in _parts(output).items()}


def check_one_a_text(name: str, values: Sequence[Any], output: Mapping[str, Any]) -> None:
    """Refuse `values`, the argument called `name`, unless there is one for every text of `output`.

    Raises:
        ValueError: there are more or fewer.
    """
    if len(values) != text_count(output):
        raise ValueError(f"{len(values)} {name} came for {text_count(output)} texts: give one a text, in their order")


def checked_weights(lexical_weights: Mapping[str, float]) -> dict[str, float]:
    """Return one text's weights as Python floats, which every JSON writer takes.

    Raises:
        ValueError: it is no dict, as where return_sparse was not set, or a weight is not a positive number.
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
        ValueError: a key is no token id, or `checked_weights` refuses them.
    """
    weights = checked_weights(lexical_weights)
    for token in weights:
        if not token.isdecimal():
            raise ValueError(
                f"{token!r} is no token id: give lexical_weights as encode returned them, not convert_id_to_token's"
            )
    return dict(sorted((int(token), weight) for token, weight in weights.items()))


def _parts(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of `output` that hold something, each with one item a text."""
    parts = {kind: in_a_list(kind, output[kind]) for kind in _KINDS if output.get(kind) is not None}
    if not parts:
        raise ValueError(f"output holds none of {', '.join(_KINDS)}: {_HOW}")
    return parts
