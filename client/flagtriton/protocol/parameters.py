# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses to and from the string parameters of a `config.pbtxt`.

Triton keeps a model's parameters as strings. Here they become typed values once, at the edge: booleans are
`true` or `false`, None is an absent key, an unknown key is an error. Knows nothing of what the values mean.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from types import NoneType
from typing import Any, TypeVar

__all__ = ["ParameterError", "read_parameters", "write_parameters"]

T = TypeVar("T")

_BOOLEANS = {"true": True, "false": False}


class ParameterError(ValueError):
    """A parameter of a `config.pbtxt` is unknown, missing or ill-formed."""


def write_parameters(settings: Any) -> dict[str, str]:  # noqa: ANN401 - any dataclass
    """Return the fields of a dataclass as strings, without those that are None."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: _to_string(value) for name, value in values.items() if value is not None}


def read_parameters(cls: type[T], parameters: Mapping[str, str], *, ignore_unknown: bool = False) -> T:
    """Return a `cls` made of string parameters.

    Args:
        cls: a dataclass whose fields are `str`, `int`, `float`, `bool`, or one of them `| None`.
        parameters: the strings, by field name.
        ignore_unknown: pass over keys that `cls` does not have, as a client of a newer server must.

    Raises:
        ParameterError: a key that `cls` does not have, a value that does not parse, or a missing one.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(parameters) - set(hints))
    if unknown and not ignore_unknown:
        raise ParameterError(f"unknown parameter {unknown[0]!r}; {cls.__name__} has {', '.join(sorted(hints))}")
    values = {name: _from_string(name, parameters[name], hints[name]) for name in hints if name in parameters}
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise ParameterError(f"parameter {missing[0]!r} is missing; {cls.__name__} needs {', '.join(missing)}")
    return cls(**values)


def _to_string(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _from_string(name: str, text: str, hint: Any) -> Any:  # noqa: ANN401 - the hint decides
    kind = _bare_type(hint)
    try:
        return _BOOLEANS[text] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        expected = "'true' or 'false'" if kind is bool else f"{kind.__name__}"
        raise ParameterError(f"parameter {name!r} is {text!r}, expected {expected}") from error


def _bare_type(hint: Any) -> Any:  # noqa: ANN401 - a type or a union of one with None
    members = [member for member in typing.get_args(hint) if member is not NoneType]
    return members[0] if members else hint
