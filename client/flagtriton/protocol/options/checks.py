# SPDX-License-Identifier: Apache-2.0
"""Checks of single request options. An error names the refused value and the allowed ones. Contains no option."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from flagtriton.protocol.text import check_encodable, shown

__all__ = [
    "Check",
    "OptionError",
    "OptionValue",
    "a_boolean",
    "a_string",
    "a_whole_number",
    "checked",
    "different",
    "numbers_in",
    "one_of",
    "tokens",
    "whole_numbers",
]

OptionValue: TypeAlias = str | int | bool
"""Types that a Triton request parameter can hold."""

# Parameters that Triton adds to a request or reserves.
_TRITONS_PREFIXES = ("sequence_", "triton_")
_TRITONS_NAMES = frozenset({"binary_data_output", "headers", "id", "priority", "timeout"})


Check: TypeAlias = Callable[[str, object], None]
"""Takes the name and the value of an option; raises `OptionError` if the value is not allowed."""


class OptionError(ValueError):
    """A request option is unknown, or its value is not allowed."""


def different(options: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass of options
    """Return the fields of a dataclass that differ from their defaults, by name."""
    fields = dataclasses.fields(options)
    given = {f.name: value for f in fields if (value := getattr(options, f.name)) != f.default}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}


def checked(parameters: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the parameters without those of Triton; all of them are known and allowed.

    Raises:
        OptionError: a parameter is not; the message has its name, its value and the allowed values.
    """
    given = {name: value for name, value in parameters.items() if not _is_tritons(name)}
    for name, value in given.items():
        if name not in checks:
            raise OptionError(f"unknown option {shown(name)}; this model has {', '.join(sorted(checks))}")
        checks[name](name, value)
    return given


def _is_tritons(name: str) -> bool:
    return name in _TRITONS_NAMES or name.startswith(_TRITONS_PREFIXES)


def a_whole_number(least: int, most: int | None, unit: str) -> Check:
    """Return a check for an integer from `least` to `most` (None for no bound) of some unit."""
    allowed = f"from {least} to {most}" if most is not None else f"of at least {least}"
    limit = math.inf if most is None else most

    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= limit:
            raise OptionError(f"option {name!r} is {shown(value)}; expected a whole number {allowed} ({unit})")

    return check


def whole_numbers(least: int) -> Check:
    """Return a check for integers of at least `least`: a string such as `8,16`, or one integer."""

    def check(name: str, value: object) -> None:
        try:
            numbers = numbers_in(value)
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < least:
            raise OptionError(
                f"option {name!r} is {shown(value)}; expected whole numbers of at least {least}, separated by commas, "
                "such as '8,16'"
            )

    return check


def numbers_in(value: object) -> tuple[int, ...]:
    """Return the numbers of an option that `whole_numbers` checks, in their order.

    Raises:
        ValueError: it holds another value.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(value)
    return tuple(int(number) for number in str(value).split(","))


def tokens(least: int, most: int) -> Check:
    """Return a check for a length in tokens that this deployment allows."""
    return a_whole_number(least, most, "tokens, this deployment's limits")


def one_of(*choices: str) -> Check:
    """Return a check for one of several strings."""

    def check(name: str, value: object) -> None:
        if value not in choices:
            raise OptionError(f"option {name!r} is {shown(value)}; expected one of {', '.join(map(repr, choices))}")

    return check


def a_boolean(name: str, value: object) -> None:
    """Check for true or false; 0 and 1 are neither."""
    if not isinstance(value, bool):
        raise OptionError(f"option {name!r} is {shown(value)}; expected true or false, as a boolean")


def a_string(name: str, value: object) -> None:
    """Check for a string that has a UTF-8 form."""
    if not isinstance(value, str):
        raise OptionError(f"option {name!r} is {shown(value)}; expected a string")
    try:
        check_encodable(value, f"option {name!r}")
    except ValueError as error:
        raise OptionError(str(error)) from error
