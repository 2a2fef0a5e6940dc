# SPDX-License-Identifier: Apache-2.0
"""What callers may pass as texts and pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from flagtriton.protocol.text import check_encodable, shown
from flagtriton.remote.containers import refuse_container

__all__ = ["as_pair_list", "as_text_list"]


def as_text_list(texts: str | Iterable[str], argument: str) -> tuple[list[str], bool]:
    """Return the texts as a list, and whether a lone `str` came.

    Lists, tuples, arrays of one axis, pandas and polars Series, Arrow arrays and generators of `str` are accepted.
    Tables, sets and dicts are not.

    Args:
        texts: one text, or several.
        argument: what the caller's argument is called, for messages.

    Raises:
        TypeError: something else came; an element is named by its index.
        ValueError: an element holds a lone surrogate and so has no UTF-8 form; named by its index.
    """
    if isinstance(texts, str):
        check_encodable(texts, argument)
        return [texts], True
    refuse_container(texts, argument, "a str or a list of str", 'one column, as in df["text"]')
    if isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"{argument} is a {type(texts).__name__}; expected a str or a list of str")
    listed = _listed(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"{argument}[{index}] is {shown(text)} ({type(text).__name__}); expected a str")
        check_encodable(text, f"{argument}[{index}]")
    return listed, False


def as_pair_list(pairs: Iterable[Sequence[str]] | Sequence[str], argument: str) -> tuple[list[tuple[str, str]], bool]:
    """Return pairs of texts as a list of tuples, and whether a lone pair came.

    A pair is a tuple, list or array of two `str`. FlagEmbedding ignores what stands behind them; here it is refused.

    Args:
        pairs: one pair, or several.
        argument: what the caller's argument is called, for messages.

    Raises:
        TypeError: something else came; a pair is named by its index.
        ValueError: a text holds a lone surrogate.
    """
    refuse_container(pairs, argument, "pairs of str", 'two columns, as in list(zip(df["query"], df["passage"]))')
    if isinstance(pairs, (str, bytes, Mapping)) or not isinstance(pairs, Iterable):
        raise TypeError(f"{argument} is {shown(pairs)} ({type(pairs).__name__}); expected pairs of str")
    listed = _listed(pairs)
    single = bool(listed) and isinstance(listed[0], str)
    return [_pair(pair, f"{argument}[{i}]") for i, pair in enumerate([listed] if single else listed)], single


def _listed(values: Iterable[Any]) -> list[Any]:
    """Return the elements as a list; those of an Arrow array as Python's, which it does not yield itself."""
    convert = getattr(values, "to_pylist", None)
    return list(values) if convert is None else list(convert())


def _pair(pair: Any, what: str) -> tuple[str, str]:  # noqa: ANN401 - whatever the caller sent
    ordered = (
        isinstance(pair, (Sequence, np.ndarray))
        and not isinstance(pair, (str, bytes))
        and getattr(pair, "ndim", 1) != 0
    )
    texts = list(islice(pair, 3)) if ordered else []
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{what} is {shown(pair)} ({type(pair).__name__}); expected a query and a passage, two str")
    for side, text in zip(("query", "passage"), texts, strict=True):
        check_encodable(text, f"the {side} of {what}")
    return texts[0], texts[1]
