# SPDX-License-Identifier: Apache-2.0
"""Converts frozen dataclasses to and from the string parameters of a `config.pbtxt`.

Triton keeps the parameters of a model as strings. A step or a client converts them once, when it reads them. Booleans
are `true` or `false`, None is an absent key, and an unknown key is an error.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeVar

from flagtriton.protocol.runtime_files import readable_path

__all__ = [
    "MODEL_DIRECTORY",
    "VERSION_PARAMETERS",
    "ParameterError",
    "all_instances",
    "instance_count",
    "read_parameters",
    "read_settings",
    "version_parameters",
    "write_parameters",
]

T = TypeVar("T")

_BOOLEANS = {"true": True, "false": False}

VERSION_PARAMETERS: Final = "parameters.json"
"""File in the folder of a version with its parameters, since all versions of a model share one `config.pbtxt`."""


MODEL_DIRECTORY: Final = "$$TRITON_MODEL_DIRECTORY"
"""Placeholder in a parameter for the folder of the model on the server. A model from a bucket is copied to that folder.
The name is Triton's."""


_PATHS = ("checkpoint", "peft")
"""Parameters that name a folder or a model on the hub."""


class ParameterError(ValueError):
    """A parameter of a `config.pbtxt` is unknown, missing or ill-formed."""


def write_parameters(settings: Any) -> dict[str, str]:  # noqa: ANN401 - any dataclass
    """Return the fields of a dataclass as strings, without fields that are None."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: _to_string(value) for name, value in values.items() if value is not None}


def read_parameters(cls: type[T], parameters: Mapping[str, str], *, ignore_unknown: bool = False) -> T:
    """Return an object of `cls` from string parameters.

    Args:
        cls: a dataclass whose fields are `str`, `int`, `float`, `bool`, or one of them `| None`.
        parameters: strings by field name.
        ignore_unknown: ignore keys that `cls` does not have, as a client of a newer server must.

    Raises:
        ParameterError: a key is unknown to `cls`, a value does not parse, or a parameter is missing.
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


def read_settings(cls: type[T], args: Mapping[str, str]) -> T:
    """Return the settings of a step from the arguments of Triton's `initialize`.

    They are the parameters of `model_config`, unless the folder of the version has its own. Names in capitals are
    Triton's and are ignored.

    Raises:
        ParameterError: a parameter is unknown, missing or ill-formed.
    """
    parameters = version_parameters(Path(args.get("model_repository", ""), args.get("model_version", "")))
    if parameters is None:
        config = json.loads(args["model_config"]).get("parameters", {})
        parameters = {name: value["string_value"] for name, value in config.items()}
    folder = args.get("model_repository", MODEL_DIRECTORY)
    own = {name: value.replace(MODEL_DIRECTORY, folder) for name, value in parameters.items() if not name.isupper()}
    own |= {name: readable_path(own[name]) for name in _PATHS if name in own}
    return read_parameters(cls, own)


def version_parameters(folder: Path) -> dict[str, str] | None:
    """Return the parameters in the folder of a version; None if it has no parameter file.

    Raises:
        ParameterError: they cannot be read.
    """
    file = folder / VERSION_PARAMETERS
    if not file.is_file():
        return None
    try:
        return {str(name): str(value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise ParameterError(f"{file} is no object of strings: {error}; add the version again") from error


def instance_count(model_config: str) -> int:
    """Return the number of instances of a step that share the CPU of this machine."""
    groups: list[dict[str, Any]] = json.loads(model_config).get("instance_group", [])
    return max(1, sum(int(group.get("count", 1)) for group in groups))


def all_instances(model_config: str) -> int:
    """Return the number of instances of a step on all its devices."""
    groups: list[dict[str, Any]] = json.loads(model_config).get("instance_group", [])
    return max(1, sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups))
