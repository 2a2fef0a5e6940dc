# SPDX-License-Identifier: Apache-2.0
"""The options of a request, which travel as Triton request parameters: made by the SDK, checked by the steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["EmbedOptions", "OptionError", "OptionValue", "ScoreOptions", "check_weights"]

OptionValue: TypeAlias = str | int | bool
"""What a Triton request parameter can hold."""

# What Triton itself puts among, or reserves in, a request's parameters.
_TRITONS_PREFIXES = ("sequence_", "triton_")
_TRITONS_NAMES = frozenset({"binary_data_output", "headers", "id", "priority", "timeout"})


Check: TypeAlias = Callable[[str, object], None]
"""Takes an option's name and the value that came; raises `OptionError` where it is not allowed."""


class OptionError(ValueError):
    """A request option is unknown, or its value is not allowed."""


@dataclass(frozen=True)
class EmbedOptions:
    """The options of one embedding request, which travel as Triton request parameters.

    Attributes:
        max_length: tokens of a text that are encoded, special tokens included; None is the deployment's own.
        input_type: `query` or `passage` puts the deployment's instruction for it before every text.
        instruction: replaces the deployment's instruction; needs an `input_type`, whose format it is put into.
        normalize: L2-normalise the vectors.
        truncate_dim: keep the first so many components, before normalising.
        truncate: `END` cuts longer texts behind `max_length` tokens, `NONE` refuses them.
    """

    max_length: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    normalize: bool = True
    truncate_dim: int | None = None
    truncate: str = "END"

    def to_parameters(self) -> dict[str, OptionValue]:
        """Return the options that differ from their defaults, by name."""
        return _different(self)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, min_length: int, max_length: int) -> EmbedOptions:
        """Return the options of a request.

        Args:
            parameters: the request's parameters, as Triton hands them over.
            min_length: the least `max_length` allowed: the tokenizer's special tokens, or 1.
            max_length: the greatest allowed: the deployment's.

        Raises:
            OptionError: names the option, what came, and what is allowed.
        """
        given = _checked(
            parameters,
            {
                "max_length": _length(min_length, max_length),
                "input_type": _one_of("query", "passage"),
                "instruction": _text,
                "normalize": _true_or_false,
                "truncate_dim": _whole_number(1, None, "components"),
                "truncate": _one_of("END", "NONE"),
            },
        )
        options = cls(**given)
        if options.instruction is not None and options.input_type is None:
            raise OptionError("option 'instruction' came without 'input_type'; send 'query' or 'passage' with it")
        return options


@dataclass(frozen=True)
class ScoreOptions:
    """The options of one request for BGE-M3's scores of pairs.

    Attributes:
        query_max_length: tokens of a query that are encoded, special tokens included; None is the deployment's own.
        passage_max_length: likewise, of a passage.
        weights: of the dense, the sparse and the ColBERT score, in the two means; as a parameter it is a string such
            as `1,0.3,1`.
        normalize: L2-normalise dense and ColBERT vectors before they are compared.
        truncate: `END` cuts longer texts, `NONE` refuses them.
    """

    query_max_length: int | None = None
    passage_max_length: int | None = None
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    normalize: bool = True
    truncate: str = "END"

    def to_parameters(self) -> dict[str, OptionValue]:
        """Return the options that differ from their defaults, by name."""
        parameters = _different(self)
        if "weights" in parameters:
            parameters["weights"] = ",".join(map(repr, self.weights))
        return parameters

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, min_length: int, max_length: int) -> ScoreOptions:
        """Return the options of a request; the arguments are those of `EmbedOptions.from_parameters`.

        Raises:
            OptionError: names the option, what came, and what is allowed.
        """
        length = _length(min_length, max_length)
        given = _checked(
            parameters,
            {
                "query_max_length": length,
                "passage_max_length": length,
                "weights": _text,
                "normalize": _true_or_false,
                "truncate": _one_of("END", "NONE"),
            },
        )
        if "weights" in given:
            given["weights"] = _weights(given["weights"])
        return cls(**given)


def check_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    """Return the weights of the dense, the sparse and the ColBERT score, in this order.

    Raises:
        ValueError: they are not three finite numbers of at least 0, one of them more.
    """
    expected = "expected three finite numbers, for dense, sparse and ColBERT, none below 0 and not all of them 0"
    try:
        numbers = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise ValueError(f"weights are {weights!r}; {expected}") from error
    if len(numbers) != 3 or not all(0 <= number < math.inf for number in numbers) or not any(numbers):
        raise ValueError(f"weights are [{', '.join(map(str, weights))}]; {expected}")
    return numbers[0], numbers[1], numbers[2]


def _weights(text: str) -> tuple[float, float, float]:
    try:
        return check_weights([float(number) for number in text.split(",")])
    except ValueError as error:
        raise OptionError(f"option 'weights' is {text!r}; {error}; send them as '1,0.3,1'") from error


def _different(options: Any) -> dict[str, OptionValue]:  # noqa: ANN401 - either dataclass of options
    fields = dataclasses.fields(options)
    return {f.name: value for f in fields if (value := getattr(options, f.name)) != f.default}


def _checked(parameters: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the parameters without Triton's own, all of them known and allowed."""
    given = {name: value for name, value in parameters.items() if not _is_tritons(name)}
    for name, value in given.items():
        if name not in checks:
            raise OptionError(f"unknown option {name!r}; this model has {', '.join(sorted(checks))}")
        checks[name](name, value)
    return given


def _is_tritons(name: str) -> bool:
    return name in _TRITONS_NAMES or name.startswith(_TRITONS_PREFIXES)


def _whole_number(least: int, most: int | None, unit: str) -> Check:
    allowed = f"from {least} to {most}" if most is not None else f"of at least {least}"
    limit = math.inf if most is None else most

    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= limit:
            raise OptionError(f"option {name!r} is {value!r}; expected a whole number {allowed} ({unit})")

    return check


def _length(least: int, most: int) -> Check:
    return _whole_number(least, most, "tokens, this deployment's limits")


def _one_of(*choices: str) -> Check:
    def check(name: str, value: object) -> None:
        if value not in choices:
            raise OptionError(f"option {name!r} is {value!r}; expected one of {', '.join(map(repr, choices))}")

    return check


def _true_or_false(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"option {name!r} is {value!r}; expected true or false, as a boolean")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise OptionError(f"option {name!r} is {value!r}; expected a string")
