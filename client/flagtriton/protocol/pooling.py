# SPDX-License-Identifier: Apache-2.0
"""The names of the poolings, which `flagtriton add` checks without torch."""

from __future__ import annotations

from typing import Final

__all__ = ["POOLINGS", "check_pooling"]

POOLINGS: Final = ("cls", "mean", "last_token", "max", "mean_sqrt_len", "weightedmean")
"""Each makes one vector of a text's; several joined by `+` are concatenated."""


def check_pooling(method: str, what: str = "pooling_method") -> list[str]:
    """Return the poolings that a name joins.

    Raises:
        ValueError: one of them is not known; says which there are.
    """
    names = method.split("+")
    if not all(name in POOLINGS for name in names):
        raise ValueError(f"{what} is {method!r}; expected one of {', '.join(POOLINGS)}, or several joined by +")
    return names
