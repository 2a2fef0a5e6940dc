# SPDX-License-Identifier: Apache-2.0
"""Arguments of calls: texts, pairs, progress bar and number of components.

Refuses containers that iterate as something else than texts: a table yields its column names, a set its own order.
Imports none of the libraries that make tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from flagtriton.protocol.text import check_encodable
from flagtriton.protocol.text import shown as short_repr

__all__ = ["as_pair_list", "as_text_list", "pop_show_progress", "resolve_truncate_dim"]

_NO_EFFECT = ("pad_to_multiple_of",)
"""Arguments of FlagEmbedding's methods that change how it computes, and no result."""


def as_text_list(texts: str | Iterable[str], argument: str) -> tuple[list[str], bool]:
    """Return the texts as a list, and whether the argument was a single `str`.

    Accepts lists, tuples, arrays of one axis, pandas and polars Series, Arrow arrays and generators of `str`. Refuses
    tables, sets and dicts.

    Args:
        texts: one text, or several.
        argument: name of the caller's argument, for messages.

    Raises:
        TypeError: the argument has another type, or one of its elements, which the message names by index.
        ValueError: a text holds a lone surrogate and so has no UTF-8 form; the message names its index.
    """
    if isinstance(texts, str):
        check_encodable(texts, argument)
        return [texts], True
    _refuse_container(texts, argument, "a str or a list of str", 'one column, as in df["text"]')
    if isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"{argument} is a {type(texts).__name__}; expected a str or a list of str")
    elements = _elements(texts)
    for index, text in enumerate(elements):
        if not isinstance(text, str):
            raise TypeError(f"{argument}[{index}] is {short_repr(text)} ({type(text).__name__}); expected a str")
        check_encodable(text, f"{argument}[{index}]")
    return elements, False


def as_pair_list(pairs: Iterable[Sequence[str]] | Sequence[str], argument: str) -> tuple[list[tuple[str, str]], bool]:
    """Return pairs of texts as a list of tuples, and whether the argument was a single pair.

    A pair is a tuple, list or array of two `str`. FlagEmbedding ignores further items; this function refuses them.

    Args:
        pairs: one pair, or several.
        argument: name of the caller's argument, for messages.

    Raises:
        TypeError: the argument has another type, or one of its pairs, which the message names by index.
        ValueError: a text holds a lone surrogate.
    """
    _refuse_container(pairs, argument, "pairs of str", 'two columns, as in list(zip(df["query"], df["passage"]))')
    if isinstance(pairs, (str, bytes, Mapping)) or not isinstance(pairs, Iterable):
        raise TypeError(f"{argument} is {short_repr(pairs)} ({type(pairs).__name__}); expected pairs of str")
    elements = _elements(pairs)
    single = bool(elements) and isinstance(elements[0], str)
    return [_pair(pair, f"{argument}[{i}]") for i, pair in enumerate([elements] if single else elements)], single


def pop_show_progress(arguments: dict[str, Any]) -> bool | None:
    """Remove `show_progress` from a method's extra arguments and return it; None without one.

    Raises:
        TypeError: there is another extra argument.
    """
    unknown = set(arguments) - {"show_progress", *_NO_EFFECT}
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}; beside the named ones: show_progress")
    show_progress: bool | None = arguments.pop("show_progress", None)
    return show_progress


def resolve_truncate_dim(truncate_dim: int | None, hidden_size: int | None) -> int | None:
    """Return the number of components of `vector[:truncate_dim]`; None keeps all.

    Raises:
        ValueError: no component is left, or a negative number came and the hidden size is unknown.
    """
    if truncate_dim is None or truncate_dim > 0:
        return truncate_dim
    if hidden_size is None:
        raise ValueError(f"truncate_dim is {truncate_dim}, but the deployment does not tell its hidden size")
    if truncate_dim == 0 or hidden_size + truncate_dim < 1:
        raise ValueError(f"truncate_dim is {truncate_dim}, which leaves none of {hidden_size} components")
    return hidden_size + truncate_dim


def _refuse_container(values: Any, argument: str, expected: str, of_table: str) -> None:  # noqa: ANN401 - unchecked
    """Raise if the argument is a table, or has no order or no elements.

    Args:
        values: the caller's argument.
        argument: name of the argument.
        expected: description of the expected argument, for messages.
        of_table: expression that takes it from a table called `df`, for messages.

    Raises:
        TypeError: the argument is a table, a set, an array of bytes, or an array without axes.
    """
    kind = type(values).__name__
    columns = _columns(values)
    if columns is not None:
        names = ", ".join(map(str, columns[:5])) + (", …" if len(columns) > 5 else "")
        raise TypeError(f"{argument} is a {kind} with the columns {names}; expected {expected}: give {of_table}")
    if isinstance(values, (set, frozenset)):
        raise TypeError(f"{argument} is a {kind}, whose order is not the caller's; expected {expected}: give a list")
    if isinstance(values, (bytearray, memoryview)):
        raise TypeError(f"{argument} is a {kind}; expected {expected}: decode it")
    if getattr(values, "ndim", None) == 0:
        raise TypeError(f"{argument} is an array without axes; expected {expected}: give its .item()")


def _columns(values: object) -> list[Any] | None:
    """Return a table's column names; None for anything else.

    pandas and polars call them `columns`, pyarrow and datasets `column_names`; pyarrow's `columns` are the columns.
    """
    for name in ("column_names", "columns"):
        names = getattr(values, name, None)
        if isinstance(names, Mapping):  # of a dict of datasets
            names = next(iter(names.values()), [])
        if names is not None and not callable(names) and not isinstance(names, str):
            return list(names)
    return None


def _elements(values: Iterable[Any]) -> list[Any]:
    """Return the elements as a list; those of an Arrow array as Python objects, which iteration does not yield."""
    convert = getattr(values, "to_pylist", None)
    return list(values) if convert is None else list(convert())


def _pair(pair: Any, name: str) -> tuple[str, str]:  # noqa: ANN401 - unchecked
    is_ordered = (
        isinstance(pair, (Sequence, np.ndarray))
        and not isinstance(pair, (str, bytes))
        and getattr(pair, "ndim", 1) != 0
    )
    texts = list(islice(pair, 3)) if is_ordered else []
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"{name} is {short_repr(pair)} ({type(pair).__name__}); expected a query and a passage, two str"
        )
    for side, text in zip(("query", "passage"), texts, strict=True):
        check_encodable(text, f"the {side} of {name}")
    return texts[0], texts[1]
